//! What lists of images and volumes are narrowed down to, and pulls for a platform.

use crate::node::Node;

#[test]
fn images_and_volumes_are_filtered() {
    let node = Node::swarm();
    // Made on the first day of 2020.
    node.load_busybox("busybox:test");
    node.ok(&["pull", "-q", "skep/hello"]);
    let images = |filters: &[&str]| {
        let mut args = vec!["image", "ls", "--format", "{{.Repository}}"];
        args.extend(filters.iter().flat_map(|filter| ["-f", filter]));
        let mut names: Vec<_> = node.ok(&args).lines().map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    };
    let (old, new) = ("busybox", "skep/hello");
    for (filters, want) in [
        (&["reference=busy*"][..], &[old][..]),
        (&["dangling=true"], &[]),
        (&["dangling=false"], &[old, new]),
        (&["before=skep/hello"], &[old]),
        (&["since=busybox:test"], &[new]),
        (&["since=skep/hello"], &[]),
        (&["until=2020-01-02T00:00:00Z"], &[old]),
        (&["until=1577836800"], &[]),
        (&["label=nope"], &[]),
    ] {
        assert_eq!(images(filters), want, "{filters:?}");
    }
    assert!(node.fails(&["image", "ls", "-f", "before=nope"]).err.contains("No such image: nope"));
    assert!(node.fails(&["image", "ls", "-f", "until=soon"]).err.contains("until=[soon]"));

    node.ok(&["volume", "create", "--label", "tier=gold", "spare"]);
    let create = ["service", "create", "-q", "-d", "--name", "web"];
    node.ok(&[&create[..], &["--mount", "source=data,target=/data", "skep/hello"]].concat());
    node.wait_running("web", 1);
    let volumes = |filter: &str| {
        let said = node.ok(&["volume", "ls", "-q", "-f", filter]);
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (filter, want) in [
        ("dangling=true", &["spare"][..]),
        ("dangling=false", &["data"]),
        ("dangling=0", &["data"]),
        ("name=are", &["spare"]),
        ("label=tier=gold", &["spare"]),
        ("label=tier=tin", &[]),
        ("driver=local", &["data", "spare"]),
        ("driver=nfs", &[]),
    ] {
        assert_eq!(volumes(filter), want, "{filter}");
    }
    assert!(node.fails(&["volume", "ls", "-f", "dangling=x"]).err.contains("dangling=[x]"));

    // An image that is not used, and was not made before the bound, is spared.
    assert!(
        !node.ok(&["image", "prune", "-af", "--filter", "until=1577836800"]).contains("eleted")
    );
    let pruned = node.ok(&["image", "prune", "-af", "--filter", "until=24h"]);
    assert!(pruned.contains("untagged: busybox:test"), "{pruned}");
}

#[test]
fn a_pull_may_name_its_platform() {
    let node = Node::start();
    let own = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    node.ok(&["pull", "-q", "--platform", own, "skep/hello"]);
    let other = node.fails(&["pull", "--platform", "linux/s390x", "skep/hello"]);
    assert!(other.err.contains("does not match the specified platform (linux/s390x)"), "{other:?}");
    let bad = node.fails(&["pull", "--platform", "a/b/c/d", "skep/hello"]);
    assert!(bad.err.contains("invalid platform"), "{bad:?}");
}
