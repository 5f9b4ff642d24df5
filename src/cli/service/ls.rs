//! `service ls`.

use crate::cli::CliError;
use crate::cli::args::service::Ls;
use crate::cli::context::Context;
use crate::cli::format::{Listing, Row, row};
use crate::cli::query::{Filters, short, tagged};
use crate::cli::table::natural;
use crate::model::engine::service::{PortConfig, Service};

const LISTING: Listing<'_> = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}",
    quiet: "{{.ID}}",
    headings: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
    ],
};

/// Lists services.
pub fn run(args: &Ls, ctx: &mut Context) -> Result<(), CliError> {
    let path = Filters::new(&args.filter).on("/services?status=true")?;
    let mut services: Vec<Service> = ctx.client.get(&path)?;
    services.sort_by(|a, b| natural(&a.spec.name, &b.spec.name));
    let rows: Vec<Row> = services.iter().map(line).collect();
    ctx.print(&LISTING.text(&rows, args.format.as_deref(), args.quiet)?)
}

fn line(service: &Service) -> Row {
    let template = &service.spec.task_template;
    let image = template.container_spec.as_ref().map_or("", |spec| spec.image.as_str());
    row([
        ("ID", short(&service.id)),
        ("Name", service.spec.name.clone()),
        ("Mode", mode(service).to_owned()),
        ("Replicas", replicas(service)),
        ("Image", tagged(image).to_owned()),
        ("Ports", ports(&service.endpoint.ports)),
    ])
}

/// A service's mode in words.
pub fn mode(service: &Service) -> &'static str {
    let mode = &service.spec.mode;
    if mode.global.is_some() {
        "global"
    } else if mode.replicated_job.is_some() {
        "replicated job"
    } else if mode.global_job.is_some() {
        "global job"
    } else {
        "replicated"
    }
}

fn replicas(service: &Service) -> String {
    let status = service.service_status.clone().unwrap_or_default();
    let mut text = format!("{}/{}", status.running_tasks, status.desired_tasks);
    let placement = service.spec.task_template.placement.as_ref();
    let most = placement.map_or(0, |placement| placement.max_replicas);
    if service.spec.mode.replicated.is_some() && most > 0 {
        text.push_str(&format!(" (max {most} per node)"));
    }
    if let Some(job) = &service.spec.mode.replicated_job {
        let total = job.total_completions.unwrap_or(0);
        text.push_str(&format!(" ({}/{total} completed)", status.completed_tasks));
    }
    text
}

/// Ingress ports, neighbours in one range: `*:80-81->80-81/tcp`.
fn ports(ports: &[PortConfig]) -> String {
    let mut sorted: Vec<&PortConfig> =
        ports.iter().filter(|port| port.publish_mode == "ingress").collect();
    sorted.sort_by_key(|port| (&port.protocol, &port.host_ip, port.published_port));
    let mut ranges: Vec<(&PortConfig, u32)> = Vec::new();
    for port in sorted {
        match ranges.last_mut() {
            Some((first, more))
                if first.protocol == port.protocol
                    && first.host_ip == port.host_ip
                    && port.published_port == first.published_port + *more + 1
                    && port.target_port == first.target_port + *more + 1 =>
            {
                *more += 1;
            }
            _ => ranges.push((port, 0)),
        }
    }
    let span = |from: u32, more: u32| match more {
        0 => from.to_string(),
        _ => format!("{from}-{}", from + more),
    };
    let shown = ranges.iter().map(|(port, more)| {
        let ip = if port.host_ip.is_empty() { "*" } else { &port.host_ip };
        let (published, target) = (span(port.published_port, *more), span(port.target_port, *more));
        format!("{ip}:{published}->{target}/{}", port.protocol)
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ports_are_one_range() {
        let port = |published, target, mode: &str| PortConfig {
            protocol: "tcp".to_owned(),
            publish_mode: mode.to_owned(),
            published_port: published,
            target_port: target,
            ..PortConfig::default()
        };
        let all = [
            port(81, 81, "ingress"),
            port(80, 80, "ingress"),
            port(8080, 80, "ingress"),
            port(82, 90, "ingress"),
            port(9000, 1, "host"),
        ];
        assert_eq!(ports(&all), "*:80-81->80-81/tcp, *:82->90/tcp, *:8080->80/tcp");
    }
}
