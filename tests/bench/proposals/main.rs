//! Durable proposals per second, beside etcd: three members of each on this machine, data folders on
//! the same disk, real sockets and real fdatasync. See `proposals.sh` beside this folder.
//!
//! A member here is the product's manager and log (`logic::manager`, `host::disk`) in a loop as the
//! daemon's. What is not in it yet: TLS between members (it comes with their RPC), and the HTTP API in
//! front. etcd is plain as well (`http://`), and is spoken to in gRPC, as its own clients do, and through
//! its JSON gateway.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark: it acts on the machine, and what fails there fails it"
)]

mod cluster;
mod floor;
mod grpc;
mod json;
mod load;
mod log;
mod member;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use self::cluster::{Cluster, Cost, MEMBERS};
use self::load::{Load, Way};

/// Times that the floor is measured.
const FLOOR_COUNT: usize = 500;

/// A run that fails (a leader that lost its place on a busy machine) is done again this often.
const TRIES_MAX: usize = 3;

/// Kernel ticks in a second (`getconf CLK_TCK`), the same on every Linux.
const TICKS: f64 = 100.0;

const USAGE: &str = "usage: proposals run DIR ETCD|- ROUNDS SECONDS IDLE_SECONDS CLIENTS…\n       proposals member ID DIR CLIENTS PEER…";

/// What is measured.
struct Plan {
    dir: PathBuf,
    /// `-`: without.
    etcd: String,
    rounds: usize,
    span: Duration,
    idle: Duration,
    clients: Vec<usize>,
}

/// One run.
struct Run {
    rate: f64,
    p50: u32,
    p99: u32,
    /// For each put, of all three members together.
    cpu_micros: f64,
    disk_bytes: f64,
    log_bytes: f64,
    syncs: f64,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["member", id, dir, clients, peers @ ..] => {
            let id = id.parse().unwrap();
            member::run(&member::Options {
                id,
                founds: id == 1,
                dir: PathBuf::from(dir),
                clients: clients.parse().unwrap(),
                peers: peers.iter().map(|it| it.parse().unwrap()).collect(),
            })
        }
        ["run", dir, etcd, rounds, seconds, idle, clients @ ..] => measure(&Plan {
            dir: PathBuf::from(dir),
            etcd: (*etcd).to_owned(),
            rounds: rounds.parse().unwrap(),
            span: Duration::from_secs(seconds.parse().unwrap()),
            idle: Duration::from_secs(idle.parse().unwrap()),
            clients: clients.iter().map(|it| it.parse().unwrap()).collect(),
        }),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> Result<(), String> {
    let mut clusters = vec![Cluster::skep(&plan.dir)?];
    if plan.etcd != "-" {
        clusters.push(Cluster::etcd(&plan.etcd, &plan.dir)?);
    }
    let mut runs: BTreeMap<(usize, Way), Vec<Run>> = BTreeMap::new();
    let mut floors = Vec::new();
    for round in 1..=plan.rounds {
        floors.push(floor::measure(&plan.dir, FLOOR_COUNT));
        println!("round {round}: {:?} (µs)", floors[round - 1]);
        for &count in &plan.clients {
            for cluster in &clusters {
                for &way in cluster.ways() {
                    let run = run(cluster, way, count, plan.span)?;
                    println!(
                        "round {round}: {count:>3} clients  {way:<6?}  {:>6.0} puts/s  p50 {:>6} µs  p99 {:>6} µs",
                        run.rate, run.p50, run.p99
                    );
                    runs.entry((count, way)).or_default().push(run);
                }
            }
        }
    }
    report(&runs, &floors);
    for cluster in &clusters {
        println!("{:?}: resident memory, now and at most: {}", cluster.ways()[0], memory(cluster)?);
    }
    if !plan.idle.is_zero() {
        for cluster in &clusters {
            idle(cluster, plan.idle)?;
        }
    }
    Ok(())
}

fn run(cluster: &Cluster, way: Way, count: usize, span: Duration) -> Result<Run, String> {
    let mut tries = 0;
    let (load, cost) = loop {
        let before = cluster.cost()?;
        match load::run(way, cluster.leader()?, count, span) {
            Ok(load) => break (load, cluster.cost()?.since(before)),
            Err(error) if tries < TRIES_MAX => println!("done again: {error}"),
            Err(error) => return Err(error),
        }
        tries += 1;
    };
    let Load { seconds, micros } = load;
    let puts = real(micros.len());
    if micros.is_empty() {
        return Err(format!("{way:?}: not one put in {seconds} s"));
    }
    // The cost is that of the first tenth, too.
    let all = puts * 1.1;
    let at = |part: usize| micros[(micros.len() * part / 100).min(micros.len() - 1)];
    let Cost { ticks, disk_bytes, log_bytes, syncs } = cost;
    let each = |sum: u64| sum as f64 / all;
    Ok(Run {
        rate: puts / seconds,
        p50: at(50),
        p99: at(99),
        cpu_micros: each(ticks) / TICKS * 1e6,
        disk_bytes: each(disk_bytes),
        log_bytes: each(log_bytes),
        syncs: each(syncs),
    })
}

fn real(count: usize) -> f64 {
    count as f64
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Medians over the rounds, and how ours compare.
fn report(runs: &BTreeMap<(usize, Way), Vec<Run>>, floors: &[floor::Floor]) {
    let floor = |of: fn(&floor::Floor) -> u32| floor::median(floors.iter().map(of).collect());
    let (two, trip) = (floor(|it| it.two), floor(|it| it.round_trip));
    println!(
        "\nmedians of {} rounds; CPU, bytes and fsyncs are those of all {MEMBERS} members for each put",
        floors.len()
    );
    println!("clients  way      puts/s  p50 ms  p99 ms  CPU µs  disk bytes  log bytes  fsyncs");
    for ((count, way), runs) in runs {
        let of = |of: fn(&Run) -> f64| median(runs, of);
        println!(
            "{count:>7}  {:<6} {:>8.0} {:>7.2} {:>7.2} {:>7.0} {:>11.0} {:>10.0} {:>7.2}",
            format!("{way:?}"),
            of(|it| it.rate),
            of(|it| f64::from(it.p50)) / 1e3,
            of(|it| f64::from(it.p99)) / 1e3,
            of(|it| it.cpu_micros),
            of(|it| it.disk_bytes),
            of(|it| it.log_bytes),
            of(|it| it.syncs),
        );
    }
    for ((count, way), theirs) in runs.iter().filter(|((_, way), _)| *way != Way::Frames) {
        let ratio =
            median(&runs[&(*count, Way::Frames)], |it| it.rate) / median(theirs, |it| it.rate);
        let goal = if *count == 1 { 3 } else { 2 };
        println!("{count} clients: {ratio:.2} times etcd by {way:?} (goal {goal})");
    }
    println!(
        "floor: one fdatasync {} µs; the later of two at once {two} µs; the second of three at once {} µs; a round trip {trip} µs",
        floor(|it| it.alone),
        floor(|it| it.three),
    );
    if let Some(ours) = runs.get(&(1, Way::Frames)) {
        let p50 = median(ours, |it| f64::from(it.p50));
        println!(
            "1 client: p50 is {:.2} times the floor (fdatasync on two at once and one round trip, {} µs)",
            p50 / f64::from(two + trip),
            two + trip
        );
    }
}

fn memory(cluster: &Cluster) -> Result<String, String> {
    let all = cluster.memory()?;
    let text: Vec<String> = all
        .iter()
        .map(|(now, most)| format!("{:.1} / {:.1}", *now as f64 / 1024.0, *most as f64 / 1024.0))
        .collect();
    Ok(format!("{} MiB", text.join(", ")))
}

fn idle(cluster: &Cluster, span: Duration) -> Result<(), String> {
    let before = cluster.cost()?;
    std::thread::sleep(span);
    let Cost { ticks, disk_bytes, log_bytes, syncs } = cluster.cost()?.since(before);
    println!(
        "{:?}: idle for {} s, all {MEMBERS} members: {disk_bytes} bytes to the disk, of the log {log_bytes} bytes and {syncs} fsyncs, {:.2} % of a processor",
        cluster.ways()[0],
        span.as_secs(),
        100.0 * ticks as f64 / TICKS / span.as_secs_f64(),
    );
    Ok(())
}
