//! Templates: every field, every error, and whatever anybody types.

use proptest::prelude::*;

use super::{Context, EXPANDED_BYTES_MAX, TemplateError, expand, expand_container, task_name};
use crate::base::id::NodeId;
use crate::logic::fixture;
use crate::model::node::NodeDescription;
use crate::model::service::{ContainerSpec, Labels, Mount, MountKind, Propagation};
use crate::model::task::Task;

const NODE: NodeId = NodeId::new(7);

fn task() -> Task {
    let mut task = fixture::task(2, 3);
    task.slot = 4;
    let labels =
        [("zone", "east"), ("com.example.tier", "front"), ("spaces", " x "), ("empty", "")];
    task.service_labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    task
}

fn description() -> NodeDescription {
    let mut description = NodeDescription { hostname: "pi".to_owned(), ..Default::default() };
    description.platform.os = "linux".to_owned();
    description.platform.arch = "arm64".to_owned();
    description
}

fn expanded(text: &str, task: &Task) -> Result<String, TemplateError> {
    let description = description();
    expand(text, Some(&Context { task, node: NODE, description: &description }))
}

#[test]
fn every_field() {
    for (text, value) in [
        ("{{.Service.ID}}", "0000000000000000000000003"),
        ("{{.Service.Name}}", "web"),
        ("{{.Service.Labels.zone}}", "east"),
        ("{{.Service.Labels.nope}}", ""),
        ("{{.Service.Labels.empty}}", ""),
        (r#"{{index .Service.Labels "com.example.tier"}}"#, "front"),
        ("{{index .Service.Labels `com.example.tier`}}", "front"),
        (r#"{{ index  .Service.Labels  "zone" }}"#, "east"),
        (r#"{{index .Service.Labels "nope"}}"#, ""),
        ("{{.Node.ID}}", "0000000000000000000000007"),
        ("{{.Node.Hostname}}", "pi"),
        ("{{.Node.Platform.OS}}", "linux"),
        ("{{.Node.Platform.Architecture}}", "aarch64"),
        ("{{.Task.ID}}", "0000000000000000000000002"),
        ("{{.Task.Name}}", "web.4.0000000000000000000000002"),
        ("{{.Task.Slot}}", "4"),
        ("a{{.Task.Slot}}b{{ .Node.Hostname }}c", "a4bpic"),
        ("{{.Task.Slot}}{{.Task.Slot}}", "44"),
        ("}} { {", "}} { {"),
        ("", ""),
    ] {
        assert_eq!(expanded(text, &task()).as_deref(), Ok(value), "{text}");
        assert!(expand(text, None).is_ok(), "{text} is refused before there is a task");
    }
}

#[test]
fn a_global_task_has_its_node_for_a_slot() {
    let task = Task { slot: 0, node: Some(NODE), ..task() };
    let node = NODE.to_string();
    assert_eq!(expanded("{{.Task.Slot}}", &task), Ok(node.clone()));
    assert_eq!(task_name(&task), format!("web.{node}.{}", task.id));
    assert_eq!(task_name(&Task { node: None, ..task }), "web.0.0000000000000000000000002");
}

#[test]
fn trim_markers_take_the_spaces_that_are_written() {
    for (text, value) in [
        ("a  {{- .Task.Slot}}  b", "a4  b"),
        ("a  {{.Task.Slot -}}  b", "a  4b"),
        ("a \t\r\n{{- .Task.Slot -}} \t\r\n b", "a4b"),
        ("{{.Task.Slot -}}  {{- .Task.Slot}}", "44"),
        ("{{- .Task.Slot -}}", "4"),
        // What an action gave stays as it is, and so does what Go does not take for a space.
        ("{{.Service.Labels.spaces}}{{- .Task.Slot}}", " x 4"),
        ("{{.Service.Labels.spaces}} {{- .Task.Slot}}", " x 4"),
        ("a\u{a0}{{- .Task.Slot -}}\u{a0}b", "a\u{a0}4\u{a0}b"),
    ] {
        assert_eq!(expanded(text, &task()).as_deref(), Ok(value), "{text}");
    }
}

#[test]
fn what_is_no_template_is_refused_with_or_without_a_task() {
    for (text, error) in [
        ("{{", "unclosed action"),
        ("a {{.Task.Slot", "unclosed action"),
        ("{{.Task.Slot}} {{.Task.Slot}", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{  }}", "missing value for command"),
        ("{{Task.Slot}}", "function \"Task.Slot\" not defined"),
        ("{{-.Task.Slot}}", "function \"-.Task.Slot\" not defined"),
        ("{{.Nope}}", "executing \"expansion\" at <.Nope>: can't evaluate field .Nope"),
        ("{{.}}", "executing \"expansion\" at <.>: can't evaluate field ."),
        ("{{.Task}}", "executing \"expansion\" at <.Task>: can't evaluate field .Task"),
        (
            "{{.task.slot}}",
            "executing \"expansion\" at <.task.slot>: can't evaluate field .task.slot",
        ),
        ("{{.Task.Slot | printf}}", "unexpected \" \" in operand"),
        ("{{.Task.Slot|printf}}", "unexpected \"|\" in operand"),
        ("{{$x}}", "unexpected \"$\" in operand"),
        ("{{\"text\"}}", "unexpected \"\"\" in operand"),
        ("{{(.Task.Slot)}}", "unexpected \"(\" in operand"),
        ("{{if .Task.Slot}}x{{end}}", "unexpected \" \" in operand"),
        ("{{index .Service.Labels}}", "unexpected \"\" in operand"),
        ("{{index .Service.Labels zone}}", "unexpected \"zone\" in operand"),
        ("{{index .Node \"x\"}}", "executing \"expansion\" at <.Node>: can't evaluate field .Node"),
    ] {
        let text_of = |error: TemplateError| error.to_string();
        let wanted = format!("template: expansion:1: {error}");
        assert_eq!(expanded(text, &task()).map_err(text_of), Err(wanted.clone()), "{text}");
        assert_eq!(expand(text, None).map_err(text_of), Err(wanted), "{text}");
    }
}

#[test]
fn a_result_is_not_longer_than_the_limit() {
    let most = "x".repeat(EXPANDED_BYTES_MAX);
    assert_eq!(expanded(&most, &task()), Ok(most.clone()));
    for text in [format!("{most}x"), format!("{most}{{{{.Task.Slot}}}}")] {
        let error = expanded(&text, &task()).unwrap_err();
        let wanted = "template: expansion:1: the result is longer than 65536 bytes";
        assert_eq!(error.to_string(), wanted);
    }
    let mut task = task();
    task.service_labels.insert("zone".to_owned(), "y".repeat(EXPANDED_BYTES_MAX / 4));
    let grows = "{{.Service.Labels.zone}}".repeat(4);
    assert_eq!(expanded(&grows, &task).map(|text| text.len()), Ok(EXPANDED_BYTES_MAX));
    assert_eq!(expanded(&grows.repeat(2), &task), Err(TemplateError::Long));
}

fn bind(source: &str, target: &str) -> Mount {
    let (propagation, non_recursive) = (Propagation::Rprivate, false);
    let kind = MountKind::Bind { source: source.to_owned(), propagation, non_recursive };
    Mount { target: target.to_owned(), read_only: false, kind }
}

fn volume(name: &str) -> Mount {
    let (labels, no_copy, subpath) = (Labels::new(), false, String::new());
    let kind = MountKind::Volume { name: name.to_owned(), labels, no_copy, subpath };
    Mount { target: "/v".to_owned(), read_only: false, kind }
}

fn container(env: &str, hostname: &str, mounts: Vec<Mount>) -> ContainerSpec {
    let (env, hostname) = (vec![env.to_owned()], hostname.to_owned());
    // Only where Docker does: not in the image, nor in labels.
    let image = "{{.Nope}}".to_owned();
    ContainerSpec { env, hostname, mounts, image, ..ContainerSpec::default() }
}

#[test]
fn env_hostname_and_mounts_are_expanded_and_nothing_else() {
    let (task, description) = (task(), description());
    let context = Context { task: &task, node: NODE, description: &description };
    let slot = "{{.Task.Slot}}";
    let mounts =
        vec![bind(&format!("/d/{slot}"), &format!("/t/{slot}")), volume(&format!("v{slot}"))];
    let wanted = container("N=4", "h4", vec![bind("/d/4", "/t/4"), volume("v4")]);
    let asked = container(&format!("N={slot}"), &format!("h{slot}"), mounts);
    assert_eq!(expand_container(&asked, Some(&context)), Ok(wanted));
}

#[test]
fn an_error_names_the_value() {
    let closed = "template: expansion:1: unclosed action";
    for (container, error) in [
        (container("A={{", "", Vec::new()), "expanding env failed: expanding \"A={{\""),
        (container("", "h{{", Vec::new()), "expanding hostname failed"),
        (
            container("", "", vec![bind("/a{{", "/b")]),
            "expanding mounts failed: expanding mount source \"/a{{\"",
        ),
        (
            container("", "", vec![bind("/a", "/b{{")]),
            "expanding mounts failed: expanding mount target \"/b{{\"",
        ),
        (
            container("", "", vec![volume("v{{")]),
            "expanding mounts failed: expanding mount source \"v{{\"",
        ),
    ] {
        assert_eq!(expand_container(&container, None), Err(format!("{error}: {closed}")));
    }
    let long = container(&format!("A={}{{{{", "é".repeat(200)), "", Vec::new());
    let error = expand_container(&long, None).unwrap_err();
    assert!(error.contains(&format!("\"A={}\"…", "é".repeat(98))), "{error}");
}

/// Pieces that templates are made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "{{",
        "}}",
        "{",
        "}",
        "- ",
        " -",
        " ",
        "\n",
        ".",
        "index ",
        ".Service.Labels",
        ".Task.Slot",
        "\"",
        "`",
        "zone",
        "é",
        "$",
        "|",
        "{{.Task.Slot}}",
        "{{- .Service.Labels.spaces -}}",
    ];
    let piece = proptest::sample::select(PIECES);
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_that_is_typed_does_harm(text in prop_oneof![pieces(), any::<String>()]) {
        let with = expanded(&text, &task());
        prop_assert_eq!(with.is_ok(), expand(&text, None).is_ok(), "checked as it is expanded");
        if let Ok(result) = with {
            prop_assert!(result.len() <= EXPANDED_BYTES_MAX);
            // Values of the task have no braces: nothing is expanded twice.
            prop_assert!(!text.contains("{{") || result != text);
        }
    }

    #[test]
    fn a_text_without_an_action_stays_as_it_is(text in any::<String>()) {
        let text = text.replace("{{", "{");
        prop_assume!(!text.contains("{{"));
        prop_assert_eq!(expanded(&text, &task()), Ok(text.clone()));
        prop_assert_eq!(expand(&text, None), Ok(text));
    }
}
