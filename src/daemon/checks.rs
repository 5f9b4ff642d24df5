//! Health checks on this machine: what a task's check is, and one probe of it.

use super::steps::Steps;
use crate::base::chain;
use crate::base::id::TaskId;
use crate::base::time::Span;
use crate::host::images::{Healthcheck, ImageRecord};
use crate::host::runtime::Look;
use crate::logic::worker::Check;
use crate::logic::worker::io::{Probe, Probed};
use crate::model::service::Health;
use crate::model::task::Task;

/// The check of a task whose container is made from `image`; without one what the service says alone.
pub(super) fn check(task: &Task, image: Option<&ImageRecord>) -> Option<Check> {
    let image = image.and_then(|image| image.config.healthcheck.as_ref()).map(health);
    Check::resolve(task.spec.container.health.as_ref(), image.as_ref())
}

/// As a service would ask for it; zero is what was left open.
fn health(image: &Healthcheck) -> Health {
    let time = |nanos: u64| Some(Span::from_nanos(nanos)).filter(|span| *span > Span::ZERO);
    Health {
        test: image.test.clone(),
        interval: time(image.interval_nanos),
        timeout: time(image.timeout_nanos),
        retries: Some(image.retries).filter(|retries| *retries > 0),
        start_period: time(image.start_period_nanos),
        start_interval: time(image.start_interval_nanos),
    }
}

impl Steps {
    /// Runs a probe in a task's container.
    pub(super) fn probe(&self, task: TaskId, probe: &Probe) -> Probed {
        match self.runtime.look(task, &probe.argv, probe.timeout.as_std()) {
            Ok(Look::Exited { code, output }) => {
                log::debug!("task {task}: its health check exited with {code}: {output}");
                Probed::Exited { code, output }
            }
            Ok(Look::Late) => Probed::Late,
            Ok(Look::Ended) => Probed::NotRun,
            Err(err) => {
                log::warn!("cannot run the health check of task {task}: {}", chain::text(&err));
                Probed::NotRun
            }
        }
    }
}
