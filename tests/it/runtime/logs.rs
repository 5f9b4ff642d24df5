//! What is kept of what a container prints.

use std::time::Duration;

use skep::host::runtime::logs::{LogNext, LogQuery};
use skep::model::service::LogDriver;

use super::{World, task};

fn driver(name: &str, options: &[(&str, &str)]) -> Option<LogDriver> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Some(LogDriver { name: name.into(), options })
}

#[test]
fn rotation_keeps_the_newest_within_the_limit() {
    let world = World::new();
    let mut inputs = world.shell("seq 1 20000");
    inputs.log = driver("json-file", &[("max-size", "100k"), ("max-file", "3")]);
    assert_eq!(world.run(task(1), &inputs).code, 0);
    let folder = world.runtime().task_folder(task(1)).join("log");
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        sizes.push(entry.unwrap().metadata().unwrap().len());
    }
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 100_000), "{sizes:?}");
    assert!(sizes.iter().filter(|size| **size > 95_000).count() >= 2, "{sizes:?}");
    let text = world.log(task(1));
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&20_000));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a line is missing");

    inputs.log = driver("json-file", &[("max-size", "50k"), ("max-file", "1")]);
    assert_eq!(world.run(task(2), &inputs).code, 0);
    assert!(world.log(task(2)).ends_with("\n20000\n"));
    let folder = world.runtime().task_folder(task(2)).join("log");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn long_lines_are_cut_and_odd_bytes_are_kept_readable() {
    let world = World::new();
    let script =
        "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'a\\377\\001\"<\\n'; printf end";
    assert_eq!(world.run(task(1), &world.shell(script)).code, 0);
    let raw = world.runtime().task_folder(task(1)).join("log/json.log");
    let raw = std::fs::read_to_string(raw).unwrap();
    let entries: Vec<serde_json::Value> =
        raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&str> = entries.iter().map(|entry| entry["log"].as_str().unwrap()).collect();
    assert_eq!(texts[..3].iter().map(|t| t.len()).collect::<Vec<_>>(), [16_384, 16_384, 7_233]);
    assert_eq!(texts[3..], ["a\u{fffd}\u{1}\"<\n", "end\n"]);
}

#[test]
fn following_sees_everything_and_ends_with_the_container() {
    let world = World::new();
    let mut inputs =
        world.shell("for i in $(seq 1 300); do echo $i; [ $((i % 100)) = 0 ] && sleep 0.2; done");
    inputs.log = driver("json-file", &[("max-size", "5k"), ("max-file", "10")]);
    world.runtime().prepare(task(1), &inputs).unwrap();
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut reader = world.runtime().logs(task(1), query).unwrap();
    assert_eq!(reader.next(Duration::ZERO).unwrap(), LogNext::Idle);
    world.runtime().create(task(1)).unwrap();
    world.runtime().start(task(1)).unwrap();
    let mut got = Vec::new();
    loop {
        match reader.next(Duration::from_secs(30)).unwrap() {
            LogNext::Line(line) => got.push(line.text.trim().parse::<u32>().unwrap()),
            LogNext::Idle => panic!("nothing for too long after {got:?}"),
            LogNext::End => break,
        }
    }
    assert_eq!(got, (1..=300).collect::<Vec<_>>());
    let query = LogQuery { tail: Some(5), ..LogQuery::default() };
    let mut reader = world.runtime().logs(task(1), query).unwrap();
    let LogNext::Line(line) = reader.next(Duration::ZERO).unwrap() else { panic!("no line") };
    assert_eq!((line.text.as_str(), line.is_stderr), ("296\n", false));
}

#[test]
fn the_driver_none_keeps_nothing() {
    let world = World::new();
    let mut inputs = world.shell("seq 1 100000");
    inputs.log = driver("none", &[]);
    assert_eq!(world.run(task(1), &inputs).code, 0);
    let folder = world.runtime().task_folder(task(1)).join("log");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_full_disk_never_holds_up_the_container() {
    let world = World::new();
    let go = world.base.join("go");
    std::fs::create_dir(&go).unwrap();
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i of many many many; i=$((i+1)); done; \
        touch /go/printed; while [ ! -e /go/on ]; do sleep 0.05; done; echo back again; \
        while [ ! -e /go/end ]; do sleep 0.05; done";
    let mut inputs = world.shell(script);
    inputs.container.mounts = vec![skep::model::service::Mount {
        target: "/go".into(),
        read_only: false,
        kind: skep::model::service::MountKind::Bind {
            source: go.to_str().unwrap().into(),
            propagation: skep::model::service::Propagation::Rprivate,
            non_recursive: false,
        },
    }];
    world.runtime().prepare(task(1), &inputs).unwrap();
    let folder = world.runtime().task_folder(task(1)).join("log");
    let tmpfs = |size: &str, flags| {
        let (kind, data) = (Some("tmpfs"), Some(size));
        nix::mount::mount(Some("tmpfs"), &folder, kind, flags, data).unwrap();
    };
    tmpfs("size=64k", nix::mount::MsFlags::empty());
    world.runtime().create(task(1)).unwrap();
    world.runtime().start(task(1)).unwrap();
    super::until("the container prints on", || go.join("printed").exists());
    super::until("the drops are counted", || {
        let (written, dropped) = world.runtime().log_counts(task(1)).unwrap();
        written > 0 && dropped > 0 && written + dropped == 3_000
    });
    let (_, dropped) = world.runtime().log_counts(task(1)).unwrap();
    let mut reader = world.runtime().logs(task(1), LogQuery::default()).unwrap();
    let mut last = None;
    while let LogNext::Line(line) = reader.next(Duration::ZERO).unwrap() {
        last = Some(line);
    }
    drop(reader);
    let last = last.unwrap();
    assert!(last.is_stderr, "{last:?}");
    assert!(last.text.contains(&format!("{dropped} lines of this log are lost")), "{last:?}");
    tmpfs("size=1m", nix::mount::MsFlags::MS_REMOUNT);
    std::fs::write(go.join("on"), "").unwrap();
    super::until("the log goes on", || world.log(task(1)).ends_with("\nback again\n"));
    std::fs::write(go.join("end"), "").unwrap();
    assert_eq!(world.wait(task(1)).code, 0);
    super::until("the shim's end", || nix::mount::umount(&folder).is_ok());
}
