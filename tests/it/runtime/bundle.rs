//! What a container sees and may do.

use skep::host::runtime::volume::Volumes;
use skep::model::service::{Device, Labels, Mount, MountKind, Propagation, Ulimit};

use super::{World, strings, task};

fn mount(target: &str, read_only: bool, kind: MountKind) -> Mount {
    Mount { target: target.into(), read_only, kind }
}

fn bind(source: &std::path::Path) -> MountKind {
    MountKind::Bind {
        source: source.to_str().unwrap().into(),
        propagation: Propagation::Rprivate,
        non_recursive: false,
    }
}

fn volume(name: &str) -> MountKind {
    MountKind::Volume {
        name: name.into(),
        labels: Labels::new(),
        no_copy: false,
        subpath: String::new(),
    }
}

#[test]
fn defaults_are_dockers() {
    let world = World::new();
    let script = "grep -E 'Cap(Bnd|Eff|Inh|Amb)|NoNewPrivs|Seccomp:' /proc/self/status; \
        id; pwd; hostname; cat /etc/hostname /etc/resolv.conf; env | sort; \
        cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; \
        cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; \
        echo x > /proc/sys/kernel/hostname || echo ro; mount -t tmpfs x /tmp || echo no mount; \
        unshare -m true || echo no unshare; df -k /dev/shm | tail -1; ulimit -c; \
        head -c 1 /dev/zero | wc -c; cat /dev/kmsg || echo no kmsg; \
        echo port $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)";
    let text = world.output(task(1), &world.shell(script));
    for want in [
        "CapBnd:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "uid=0(root) gid=0(root) groups=0(root)",
        &format!("\n/\n{0}\n{0}\nnameserver 10.9.8.7\n", task(1).short()),
        &format!("HOME=/root\nHOSTNAME={}\nPATH=/usr/local/sbin:", task(1).short()),
        "SHLVL=1\n0\n4\n",
        "ro\n",
        "no mount\n",
        "no unshare\n",
        "65536",
        "no kmsg\n",
        "\n1\n",
        "port 0\n",
    ] {
        assert!(text.contains(want), "{want:?} is not in {text}");
    }
}

#[test]
fn users_groups_and_working_directory() {
    let world = World::new();
    let mut inputs = world.shell("id; pwd; grep CapEff /proc/self/status; echo hi > /dev/stderr");
    inputs.container.user = "web".into();
    inputs.container.groups = strings(&["gpio", "5"]);
    inputs.container.dir = "/made/here".into();
    let text = world.output(task(1), &inputs);
    assert!(text.contains("uid=33(web) gid=34(web)"), "{text}");
    assert!(text.contains("groups=5,34(web),44(video),997(gpio)"), "{text}");
    assert!(text.contains("\n/made/here\nCapEff:\t0000000000000000\nhi\n"), "{text}");

    let mut inputs = world.shell("id");
    inputs.image.user = "1234:5678".into();
    assert!(world.output(task(2), &inputs).contains("uid=1234 gid=5678 groups=5678"));
    inputs.container.user = "nobody-here".into();
    let err = world.launch(task(3), &inputs).unwrap_err().to_string();
    assert_eq!(err, "unable to find user nobody-here: no matching entries in passwd file");
}

#[test]
fn a_hostile_image_leads_nowhere() {
    let world = World::new();
    let passwd = world.image().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink("/../../../../etc/shadow", &passwd).unwrap();
    let mut inputs = world.inputs(&["true"]);
    inputs.container.user = "daemon".into();
    assert!(world.launch(task(1), &inputs).unwrap_err().to_string().contains("unable to find"));
    std::fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let err = world.launch(task(2), &inputs).unwrap_err().to_string();
    assert!(err.contains("not a regular file"), "{err}");
    std::fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd/7", world.image().join("link")).unwrap();
    let mut inputs = world.inputs(&["true"]);
    inputs.image.workdir = "/link/../x".into();
    let err = world.launch(task(3), &inputs).unwrap_err().to_string();
    assert!(err.contains("leads to /proc"), "{err}");
    // A volume target that is a link out of the image fills from nowhere.
    std::os::unix::fs::symlink("/../../etc", world.image().join("out")).unwrap();
    let mut inputs = world.shell("ls -A /out | wc -l; ls /etc");
    inputs.container.mounts = vec![mount("/out", false, volume("hostile"))];
    world.output(task(4), &inputs);
    let filled = world.config.data_root.join("volumes/hostile/_data");
    assert!(!filled.join("shadow").exists());
}

#[test]
fn capabilities_seccomp_and_privileges() {
    let world = World::new();
    let mut inputs = world.shell(
        "grep -E 'CapEff|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
    );
    inputs.container.cap_add = strings(&["SYS_ADMIN"]);
    inputs.container.cap_drop = strings(&["ALL"]);
    inputs.container.no_new_privileges = true;
    inputs.container.oom_score_adj = 321;
    let text = world.output(task(1), &inputs);
    assert!(text.contains("CapEff:\t0000000000200000\nNoNewPrivs:\t1\nmounted\n"), "{text}");
    inputs.container.command = strings(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(world.output(task(2), &inputs), "321\n");
    inputs.container.cap_add = strings(&["NOPE"]);
    assert!(world.launch(task(3), &inputs).is_err());
}

#[test]
fn mounts_of_every_kind() {
    let world = World::new();
    let outside = world.base.join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("there"), "there\n").unwrap();
    let script = "cat /b/there; echo new > /b/new; echo x > /r/no || echo read only; \
        stat -c %a /t; df -k /t | tail -1; echo x > /t/x && cat /v/file /v/sub/deep; \
        stat -c '%u %g %N' /v /v/link; echo changed > /v/file; ls /v2; cat /b2/only";
    std::fs::write(outside.join("sub/only"), "only\n").unwrap();
    let mut inputs = world.shell(script);
    // The volume is mounted where the image has files: it gets a copy of them.
    std::fs::create_dir(world.image().join("v")).unwrap();
    std::fs::remove_dir(world.image().join("v")).unwrap();
    std::fs::rename(world.image().join("data"), world.image().join("v")).unwrap();
    let tmpfs = MountKind::Tmpfs { size_bytes: 1 << 20, mode: 0o750 };
    inputs.container.mounts = vec![
        mount("/b2", false, bind(&outside.join("sub"))),
        mount("/b", false, bind(&outside)),
        mount("/r", true, bind(&outside)),
        mount("/t", false, tmpfs),
        mount("/v", false, volume("vol")),
        mount("/v2", false, volume("")),
    ];
    let text = world.output(task(1), &inputs);
    let want = "there\n";
    assert!(text.starts_with(want), "{text}");
    for want in ["read only\n", "750\n", "1024", "from the image\ndeep\n", "33 34 /v\n", "only\n"] {
        assert!(text.contains(want), "{want:?} is not in {text}");
    }
    assert_eq!(std::fs::read_to_string(outside.join("new")).unwrap(), "new\n");
    let names: Vec<String> =
        world.runtime().volumes().list().unwrap().into_iter().map(|volume| volume.name).collect();
    let anonymous = Volumes::anonymous_name(task(1), "/v2");
    assert_eq!(names, [anonymous, "vol".to_owned()]);
    let err = world.runtime().remove_volume("vol").unwrap_err().to_string();
    assert_eq!(err, format!("remove vol: volume is in use - [{}]", task(1)));
    world.runtime().remove(task(1)).unwrap();
    assert_eq!(world.runtime().volumes().list().unwrap().len(), 1, "the anonymous one goes");
    // The second user sees what the first one wrote, not the image's.
    let mut inputs = world.shell("cat /v/file");
    inputs.container.mounts = vec![mount("/v", true, volume("vol"))];
    assert_eq!(world.output(task(2), &inputs), "changed\n");
    world.runtime().remove(task(2)).unwrap();
    world.runtime().remove_volume("vol").unwrap();
}

#[test]
fn a_fill_that_was_cut_short_is_done_again() {
    let world = World::new();
    let mut inputs = world.shell("cat /data/file; ls /data");
    inputs.image.volumes = strings(&["/data"]);
    let name = Volumes::anonymous_name(task(1), "/data");
    let folder = world.runtime().volumes().create(&name, &Labels::new()).unwrap().mountpoint;
    std::fs::write(folder.join("file"), "ha").unwrap();
    std::fs::write(folder.join("half"), "").unwrap();
    std::fs::write(folder.parent().unwrap().join("filling"), "").unwrap();
    assert_eq!(world.output(task(1), &inputs), "from the image\nfile\nlink\nsub\n");
}

#[test]
fn bad_mounts_are_refused_and_change_nothing() {
    let world = World::new();
    let refuse = |mount: Mount| {
        let mut inputs = world.inputs(&["true"]);
        inputs.container.mounts = vec![mount];
        world.launch(task(1), &inputs).unwrap_err().to_string()
    };
    let gone = world.base.join("gone");
    assert_eq!(
        refuse(mount("/x", false, bind(&gone))),
        format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            gone.display()
        )
    );
    assert!(refuse(mount("/", false, volume("ab"))).contains("destination can't be '/'"));
    assert!(refuse(mount("/a/../..", false, volume("ab"))).contains("destination can't be"));
    assert!(refuse(mount("/x", false, volume("../up"))).contains("invalid characters"));
    assert_eq!(world.runtime().volumes().list().unwrap(), Vec::new());
}

#[test]
fn read_only_root() {
    let world = World::new();
    let script = "exec 2> /dev/null; echo x > /file || echo ro; echo x > /etc/hosts || echo ro; \
        echo x > /dev/shm/x && cat /dev/shm/x; echo x > /t/x && echo tmp";
    let mut inputs = world.shell(script);
    inputs.container.read_only = true;
    inputs.container.mounts = vec![mount("/t", false, MountKind::Tmpfs { size_bytes: 0, mode: 0 })];
    std::fs::create_dir(world.image().join("t")).unwrap();
    let text = world.output(task(1), &inputs);
    assert!(text.contains("ro\nro\nx\ntmp\n"), "{text}");
}

#[test]
fn limits_of_the_cgroup_and_of_processes() {
    let world = World::new();
    let script = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward; cat /proc/sys/kernel/msgmax; \
        i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; sleep 0.2; jobs | wc -l";
    let mut inputs = world.shell(script);
    inputs.container.ulimits = vec![Ulimit { name: "nofile".into(), soft: 99, hard: 100 }];
    inputs.container.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    inputs.container.sysctls.insert("kernel.msgmax".into(), "12345".into());
    inputs.resources.limit_pids = 10;
    inputs.resources.limit_nano_cpus = 500_000_000;
    inputs.resources.limit_memory_bytes = 64 << 20;
    world.launch(task(1), &inputs).unwrap();
    let exit = world.wait(task(1));
    let text = world.log(task(1));
    assert!(text.starts_with("99\n100\n1\n12345\n"), "{text}");
    assert_ne!((exit.code, text.lines().last()), (0, Some("20")), "forks must fail: {text}");
    let path = world.runtime().cgroups().path(&task(1).to_string());
    for (controller, file, want) in [
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("pids", "pids.max", "10"),
    ] {
        let path = format!("/sys/fs/cgroup/{controller}{path}/{file}");
        if let Ok(value) = std::fs::read_to_string(&path) {
            assert_eq!(value.trim(), want, "{path}");
        }
    }
}

#[test]
fn devices() {
    let world = World::new();
    let mut inputs =
        world.shell("ls -l /dev/mine; head -c 3 /dev/mine | wc -c; echo x > /dev/mine || echo no");
    inputs.container.devices = vec![Device {
        path_on_host: "/dev/zero".into(),
        path_in_container: "/dev/mine".into(),
        permissions: "rwm".into(),
    }];
    let text = world.output(task(1), &inputs);
    assert!(text.contains("1,   5") && text.contains("3\n"), "{text}");
    // A device that was not given cannot be used even by who can make its node.
    let mut inputs = world.shell("mknod /x c 10 229; cat /x || echo forbidden");
    assert!(world.output(task(2), &inputs).contains("forbidden"));
    inputs.container.devices = vec![Device {
        path_on_host: "/dev/nope".into(),
        path_in_container: String::new(),
        permissions: String::new(),
    }];
    let err = world.launch(task(3), &inputs).unwrap_err().to_string();
    assert!(err.contains("adding custom device \"/dev/nope\": no such file"), "{err}");
}

#[test]
fn init_reaps_and_hands_signals_on() {
    let world = World::new();
    let script = "trap 'echo term; exit 4' TERM; (sh -c 'sleep 0.1 & exit' &); sleep 0.5; \
        ps -o pid,stat,args; echo ready; while :; do sleep 0.05; done";
    let mut inputs = world.shell(script);
    inputs.container.init = Some(true);
    world.launch(task(1), &inputs).unwrap();
    super::until("the script", || world.log(task(1)).contains("ready"));
    let text = world.log(task(1));
    assert!(text.contains("/sbin/docker-init -- sh -c"), "{text}");
    assert!(!text.contains("Z"), "a zombie is left: {text}");
    world.runtime().stop(task(1)).unwrap();
    assert_eq!(world.wait(task(1)).code, 4);
    assert!(world.log(task(1)).ends_with("term\n"));
    let mut inputs = world.shell("kill -9 $$");
    inputs.container.init = Some(true);
    assert_eq!(world.run(task(2), &inputs).code, 137);
}

#[test]
fn terminals() {
    let world = World::new();
    let mut inputs = world.shell("tty; echo err >&2; echo $TERM");
    inputs.container.tty = true;
    assert_eq!(world.output(task(1), &inputs), "/dev/pts/0\r\nerr\r\nxterm\r\n");
}
