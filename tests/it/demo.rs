//! `skep demo`, whole: it walks to its end, leaves what it says, and nothing when it is cleaned.

use std::path::Path;
use std::process::Command;

fn demo(name: &str, clean: bool) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
    command.args(["demo", "--name", name]);
    if clean {
        command.arg("--clean");
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Removes the demo however the test ends.
struct Cleaned(String);

impl Drop for Cleaned {
    fn drop(&mut self) {
        let (done, _, error) = demo(&self.0, true);
        if !done {
            eprintln!("the demo {} is left: {error}", self.0);
        }
    }
}

#[test]
fn the_demo_walks_to_its_end_and_is_removed() {
    let name = format!("skdt{}", std::process::id());
    let cleaned = Cleaned(name.clone());
    let (done, said, error) = demo(&name, false);
    assert!(done, "{said}\n{error}");
    for part in [
        "This node joined a swarm as a worker.",
        "http://10.9.0.3/ says: Hello from ",
        "converged",
        "is seen as down after",
        "(taken after ",
        "The machines are running.",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let (again, _, error) = demo(&name, false);
    assert!(!again && error.contains("is there already"), "{error}");
    drop(cleaned);
    for left in [format!("/run/{name}"), format!("/var/lib/{name}"), format!("/run/netns/{name}-1")]
    {
        assert!(!Path::new(&left).exists(), "{left} is left");
    }
    let (done, _, error) = demo("no/such name", true);
    assert!(!done && error.contains("use at most 20"), "{error}");
}
