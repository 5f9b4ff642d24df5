//! The words of the scripts.

use crate::base::time::Span;
use crate::model::service::{
    FailureAction, Mode, OnDisconnect, RestartCondition, ServiceSpec, UpdateOrder,
};
use crate::model::task::TaskState;

pub(super) fn seconds(text: &str) -> i64 {
    text.parse::<i64>().unwrap() * 1_000_000
}

pub(super) fn state(text: &str) -> TaskState {
    match text {
        "starting" => TaskState::Starting,
        "running" => TaskState::Running,
        "complete" => TaskState::Complete,
        "failed" => TaskState::Failed,
        "rejected" => TaskState::Rejected,
        "shutdown" => TaskState::Shutdown,
        _ => panic!("unknown state {text}"),
    }
}

fn action(text: &str) -> FailureAction {
    match text {
        "continue" => FailureAction::Continue,
        "rollback" => FailureAction::Rollback,
        _ => FailureAction::Pause,
    }
}

pub(super) fn set(spec: &mut ServiceSpec, text: &str) {
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        let number = || value.parse::<u64>().expect("a number");
        let span = || Span::from_secs(number());
        let update = spec.update.get_or_insert_default();
        let (restart, placement) = (&mut spec.task.restart, &mut spec.task.placement);
        match key {
            "image" => value.clone_into(&mut spec.task.container.image),
            "replicas" => spec.mode = Mode::Replicated { replicas: number() },
            "mode" if value == "global" => spec.mode = Mode::Global,
            "mode" if value == "global-job" => spec.mode = Mode::GlobalJob,
            "job" => {
                let (max_concurrent, total) = value.split_once('/').expect("at once/in all");
                let number = |text: &str| text.parse().unwrap();
                spec.mode = Mode::ReplicatedJob {
                    max_concurrent: number(max_concurrent),
                    total: number(total),
                };
            }
            "disconnect" => spec.task.on_disconnect = OnDisconnect::Stop,
            "condition" if value == "none" => restart.condition = RestartCondition::None,
            "condition" => restart.condition = RestartCondition::OnFailure,
            "delay" => restart.delay = span(),
            "attempts" => restart.max_attempts = number(),
            "window" => restart.window = span(),
            "parallelism" => update.parallelism = number(),
            "wait" => update.delay = span(),
            "monitor" => update.monitor = span(),
            "action" => update.on_failure = action(value),
            "back" => spec.rollback.get_or_insert_default().on_failure = action(value),
            "ratio" => update.max_failure_ppm = value.parse::<u32>().unwrap() * 10_000,
            "order" if value == "stop-first" => update.order = UpdateOrder::StopFirst,
            "order" => update.order = UpdateOrder::StartFirst,
            "constraint" => placement.constraints = vec![value.to_owned()],
            "max" => placement.max_replicas = number(),
            "memory" => spec.task.resources.reserve_memory_bytes = number(),
            _ => panic!("unknown key {key}"),
        }
    }
}
