//! Pulling from a registry.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use serde_json::json;
use skep::host::images::{Credentials, ErrorKind, ImageStore, Platform, PullEvent, RegistryConfig};
use skep::model::image_ref::Reference;

use super::archive::{Tar, configuration, gzip, manifest, sha256};
use super::fake::{Answer, Fake};
use super::registry::{Registry, copy, text};
use super::{Dir, busybox_layout, config, inventory, open, run};

pub(super) fn pull(store: &ImageStore, name: &str) -> (Result<String, String>, Vec<PullEvent>) {
    let mut events = Vec::new();
    let reference = Reference::parse(name).unwrap();
    let result = store.pull(&reference, None, &mut |event| events.push(event));
    (result.map(|r| r.id.to_string()).map_err(|e| e.to_string()), events)
}

fn statuses(events: &[PullEvent]) -> Vec<String> {
    let mut seen: Vec<String> = events.iter().map(|e| e.status.clone()).collect();
    seen.dedup();
    seen
}

#[test]
fn images_come_over_http_in_both_formats_and_are_told_in_dockers_words() {
    let (dir, registry) = (Dir::new(), Registry::start(""));
    let image = busybox_layout(&dir);
    for format in ["oci", "v2s2"] {
        let name = registry.name(&format!("test/bb-{format}:1"));
        copy(&format!("oci:{image}"), &format!("docker://{name}"), &["--format", format]);
        let store = open(&dir.path(&format!("store-{format}")));
        let (id, events) = pull(&store, &name);
        id.unwrap();
        let seen = statuses(&events);
        assert_eq!(seen[0], format!("Pulling from test/bb-{format}"));
        assert_eq!(events[0].id.as_deref(), Some("1"));
        for status in [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ] {
            assert!(seen.iter().any(|s| s == status), "{status} in {seen:?}");
        }
        assert!(seen[seen.len() - 2].starts_with("Digest: sha256:"));
        assert_eq!(seen[seen.len() - 1], format!("Status: Downloaded newer image for {name}"));

        let record = store.resolve(&name).unwrap();
        assert_eq!(record.repo_tags, std::slice::from_ref(&name));
        assert_eq!(record.repo_digests.len(), 1);
        assert_eq!(record.config.entrypoint, ["/bin/busybox"]);
        assert_eq!(record.config.cmd, ["sh"]);
        assert!(record.config.env.contains(&"A=b c".to_owned()));
        assert_eq!(record.config.working_dir, "/etc");
        assert_eq!(record.config.user, "7:8");
        assert_eq!(record.config.exposed_ports, ["80/tcp"]);
        assert_eq!(record.config.labels["x"], "y");
        let layers = store.layers(&record).unwrap();
        assert_eq!(layers.len(), 2);
        assert_eq!(text(&layers[0].join("etc/own/motd")), "made on the spot\n");
        let size = std::fs::metadata("/bin/busybox").unwrap().size();
        assert_eq!(std::fs::metadata(layers[1].join("bin/busybox")).unwrap().size(), size);
        assert_eq!(record.size, size + 17);

        let (id, events) = pull(&store, &name);
        assert_eq!(id.unwrap(), record.id.to_string());
        let seen = statuses(&events);
        assert!(seen.contains(&"Already exists".to_owned()), "{seen:?}");
        assert_eq!(seen[seen.len() - 1], format!("Status: Image is up to date for {name}"));
        // By digest, by id, by short id.
        let by_digest = record.repo_digests[0].clone();
        for name in [by_digest, record.id.to_string(), record.id.hex(), record.id.short()] {
            assert_eq!(store.resolve(&name).unwrap().id, record.id, "{name}");
        }
        // A second start finds it again.
        drop(store);
        let store = open(&dir.path(&format!("store-{format}")));
        assert_eq!(store.list(), [record]);
    }
}

/// An image of these layers as the paths of a registry.
pub(super) fn image_paths(name: &str, layers: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let config = configuration(layers);
    let blobs: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
    let manifest = manifest(&config, &blobs);
    let mut paths = BTreeMap::new();
    for blob in blobs.into_iter().chain([config]) {
        paths.insert(format!("/v2/{name}/blobs/sha256:{}", sha256(&blob)), blob);
    }
    let digest = sha256(&manifest);
    paths.insert(format!("/v2/{name}/manifests/sha256:{digest}"), manifest.clone());
    paths.insert(format!("/v2/{name}/manifests/1"), manifest);
    paths
}

/// A layer that compresses to more than `bytes`.
pub(super) fn noise_layer(bytes: u64) -> Vec<u8> {
    let mut rng = skep::base::rng::Rng::new(bytes);
    let data: Vec<u8> = (0..bytes / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    Tar::default().file("noise", &data).end()
}

pub(super) fn blob_path(paths: &BTreeMap<String, Vec<u8>>) -> String {
    let largest = paths.iter().filter(|(path, _)| path.contains("/blobs/"));
    largest.max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone()
}

#[test]
fn a_download_that_breaks_goes_on_where_it_stopped() {
    let paths = image_paths("a", &[noise_layer(3 << 20)]);
    let blob = blob_path(&paths);
    for ranges in [true, false] {
        let (served, blob) = (paths.clone(), blob.clone());
        let fake = Fake::start(move |request, before| {
            let Some(bytes) = served.get(&request.path) else { return Answer::new(404, b"") };
            if request.path != blob {
                return Answer::new(200, bytes);
            }
            let start = request.headers.get("range").filter(|_| ranges);
            let start = start.map_or(0, |range| {
                range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
            });
            let mut answer = Answer::new(if start > 0 { 206 } else { 200 }, &bytes[start..]);
            if start > 0 {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                answer = answer.header("Content-Range", &range);
            }
            answer.send = if before < 3 { 700_000 } else { usize::MAX };
            answer
        });
        let dir = Dir::new();
        let store = open(&dir.path("store"));
        let name = format!("{}/a:1", fake.address);
        pull(&store, &name).0.unwrap();
        let blobs: Vec<_> = fake
            .requests()
            .into_iter()
            .filter(|request| request.path.contains("/blobs/"))
            .collect();
        let asked = blobs.iter().filter_map(|request| request.headers.get("range")).count();
        assert_eq!(asked, 3, "each further try asks for the rest");
        assert_eq!(store.resolve(&name).unwrap().size, 3 << 20);
    }
}

#[test]
fn what_the_registry_gives_is_never_believed() {
    let honest = image_paths("a", &[noise_layer(100_000)]);
    let blob = blob_path(&honest);
    let manifest_path = "/v2/a/manifests/1".to_owned();
    let config_path =
        honest.keys().find(|path| path.contains("/blobs/") && **path != blob).unwrap();
    let damage = |path: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut paths = honest.clone();
        change(paths.get_mut(path).unwrap());
        paths
    };
    let replace = |from: &str, to: &str| {
        let text = String::from_utf8(honest[&manifest_path].clone()).unwrap();
        let mut paths = honest.clone();
        paths.insert(manifest_path.clone(), text.replacen(from, to, 1).into_bytes());
        paths
    };
    let size = format!("\"size\":{}", honest[&blob].len());
    let cases = [
        ("flipped byte", damage(&blob, &|b| b[5000] ^= 1), "failed verification"),
        ("longer blob", damage(&blob, &|b| b.push(0)), "failed verification"),
        ("shorter blob", damage(&blob, &|b| b.truncate(9_000)), "closed too early"),
        ("flipped config", damage(config_path, &|b| b[5] ^= 1), "failed verification"),
        ("no json", damage(&manifest_path, &|b| b[0] = b'x'), "invalid manifest of"),
        ("manifest says less", replace(&size, "\"size\":5000"), "failed verification"),
        ("manifest says more", replace(&size, "\"size\":500000"), "closed too early"),
        (
            "manifest says far too much",
            replace(&size, "\"size\":99999999999999"),
            "exceeds the limit",
        ),
        (
            "no layers",
            replace("\"layers\":[", "\"layers\":[],\"x\":["),
            "names 1 layers, but it has 0",
        ),
    ];
    for (what, paths, want) in cases {
        let fake = Fake::start(move |request, _| match paths.get(&request.path) {
            Some(bytes) => Answer::new(200, bytes),
            None => Answer::new(404, b""),
        });
        let dir = Dir::new();
        let store = open(&dir.path("store"));
        let before = inventory(&dir.path("store"));
        let reference = Reference::parse(&format!("{}/a:1", fake.address)).unwrap();
        let error = store.pull(&reference, None, &mut |_| {}).expect_err(what);
        assert!(error.to_string().contains(want), "{what}: {error}");
        if error.kind() == ErrorKind::Invalid {
            assert_eq!(inventory(&dir.path("store")), before, "{what} left something");
        }
        assert!(store.list().is_empty(), "{what}");
    }
    // The digest of a reference is checked against the bytes, and so is what the header says.
    for (suffix, header) in
        [(format!("@sha256:{}", "0".repeat(64)), None), (":1".to_owned(), Some("0"))]
    {
        let bytes = honest[&manifest_path].clone();
        let fake = Fake::start(move |_, _| {
            let answer = Answer::new(200, &bytes);
            match header {
                Some(digit) => {
                    answer.header("Docker-Content-Digest", &format!("sha256:{}", digit.repeat(64)))
                }
                None => answer,
            }
        });
        let dir = Dir::new();
        let error = pull(&open(&dir.path("store")), &format!("{}/a{suffix}", fake.address)).0;
        assert!(error.unwrap_err().contains("should have digest sha256:000"));
    }
}

#[test]
fn the_image_of_the_best_platform_is_taken() {
    let machines = [("arm", "v6"), ("arm", "v7"), ("arm64", "v8"), ("amd64", "")];
    let mut paths = BTreeMap::new();
    let mut entries = Vec::new();
    for (architecture, variant) in machines {
        let layer =
            Tar::default().file("which", format!("{architecture}{variant}").as_bytes()).end();
        let mut own = image_paths("multi", &[layer]);
        let manifest = own.remove("/v2/multi/manifests/1").unwrap();
        entries.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", sha256(&manifest)), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture, "variant": variant },
        }));
        paths.append(&mut own);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let index = index.to_string().into_bytes();
    let digest = sha256(&index);
    paths.insert("/v2/multi/manifests/1".to_owned(), index);
    let fake = Fake::start(move |request, _| match paths.get(&request.path) {
        Some(bytes) => Answer::new(200, bytes)
            .header("Content-Type", "application/vnd.oci.image.index.v1+json"),
        None => Answer::new(404, b""),
    });
    let name = format!("{}/multi:1", fake.address);
    for (platform, want) in [
        (Platform::linux("arm", "v6"), "armv6"),
        (Platform::linux("arm", "v7"), "armv7"),
        (Platform::linux("arm64", "v8"), "arm64v8"),
        (Platform::linux("amd64", ""), "amd64"),
    ] {
        let dir = Dir::new();
        let store = ImageStore::open(&dir.path("store"), platform, config()).unwrap();
        pull(&store, &name).0.unwrap();
        let record = store.resolve(&name).unwrap();
        assert_eq!(text(&store.layers(&record).unwrap()[0].join("which")), want);
        assert_eq!(record.repo_digests, [format!("{}/multi@sha256:{digest}", fake.address)]);
        let told = store.distribution(&Reference::parse(&name).unwrap(), None).unwrap();
        assert_eq!((told.digest.hex(), told.platforms.len()), (digest.clone(), 4));
        assert_eq!(told.media_type, "application/vnd.oci.image.index.v1+json");
    }
    // Another machine's, when it is asked for by name.
    let dir = Dir::new();
    let store =
        ImageStore::open(&dir.path("store"), Platform::linux("amd64", ""), config()).unwrap();
    let reference = Reference::parse(&name).unwrap();
    let pull_for = |platform: &str| {
        let platform = Platform::parse(platform).unwrap();
        store
            .pull_for(Some(&platform), &reference, None, &mut |_| {})
            .map_err(|e| e.to_string())?;
        let record = store.resolve(&name).map_err(|e| e.to_string())?;
        Ok::<_, String>(text(&store.layers(&record).unwrap()[0].join("which")))
    };
    assert_eq!(pull_for("linux/arm/v6").unwrap(), "armv6");
    assert_eq!(pull_for("linux/x86_64").unwrap(), "amd64");
    let error = pull_for("linux/s390x").unwrap_err();
    assert_eq!(error, "no matching manifest for linux/s390x in the manifest list entries");
    let dir = Dir::new();
    let store =
        ImageStore::open(&dir.path("store"), Platform::linux("riscv64", ""), config()).unwrap();
    let error = pull(&store, &name).0.unwrap_err();
    assert_eq!(error, "no matching manifest for linux/riscv64 in the manifest list entries");
}

#[test]
fn tokens_and_passwords_are_asked_for_and_given() {
    let paths = image_paths("own/a", &[Tar::default().file("f", b"x").end()]);
    let fake = Fake::start(move |request, _| {
        let authorization = request.headers.get("authorization").map_or("", String::as_str);
        if let Some(query) = request.path.strip_prefix("/token?") {
            assert!(query.contains("service=the%20registry"), "{query}");
            assert!(query.contains("scope=repository%3Aown%2Fa%3Apull"), "{query}");
            // user:secret
            return match authorization {
                "Basic dXNlcjpzZWNyZXQ=" => Answer::new(200, br#"{"token":"tok"}"#),
                "" => Answer::new(200, br#"{"access_token":"anonymous"}"#),
                _ => Answer::new(401, b"{}"),
            };
        }
        let host = &request.headers["host"];
        if authorization != "Bearer tok" {
            let challenge =
                format!("Bearer realm=\"http://{host}/token\",service=\"the registry\"");
            return Answer::new(401, b"{}").header("WWW-Authenticate", &challenge);
        }
        paths.get(&request.path).map_or(Answer::new(404, b""), |bytes| Answer::new(200, bytes))
    });
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    let reference = Reference::parse(&format!("{}/own/a:1", fake.address)).unwrap();
    let basic = |password: &str| Credentials::Basic {
        username: "user".to_owned(),
        password: password.to_owned(),
    };
    let attempt = |credentials: Option<&Credentials>| {
        store.pull(&reference, credentials, &mut |_| {}).map(drop)
    };
    let denied = attempt(None).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    assert!(denied.to_string().starts_with("pull access denied for "), "{denied}");
    let wrong = attempt(Some(&basic("wrong"))).unwrap_err();
    assert!(wrong.to_string().contains("incorrect username or password"), "{wrong}");
    attempt(Some(&basic("secret"))).unwrap();
    attempt(Some(&Credentials::Registry("tok".to_owned()))).unwrap();
    let tokens = fake.requests().iter().filter(|r| r.path.starts_with("/token")).count();
    assert_eq!(tokens, 3, "one token serves all requests of a pull");

    // Debian's registry with a password file.
    let users = dir.path("users");
    run("htpasswd", &["-Bbc", &users.display().to_string(), "user", "secret"]);
    let auth = format!("auth:\n  htpasswd:\n    realm: own\n    path: {}", users.display());
    let registry = Registry::start(&auth);
    let name = registry.name("private:1");
    let image = busybox_layout(&dir);
    let login = ["--dest-creds", "user:secret"];
    copy(&format!("oci:{image}"), &format!("docker://{name}"), &login);
    let reference = Reference::parse(&name).unwrap();
    let result = store.pull(&reference, None, &mut |_| {});
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Denied);
    store.pull(&reference, Some(&basic("secret")), &mut |_| {}).unwrap();
    let host = registry.address.to_string();
    store.check_login(&host, &basic("secret")).unwrap();
    let wrong = store.check_login(&host, &basic("wrong")).unwrap_err();
    assert!(wrong.to_string().contains("incorrect username or password"), "{wrong}");
}

#[test]
fn absent_things_and_passing_troubles() {
    let paths = image_paths("a", &[Tar::default().file("f", b"x").end()]);
    let fake = Fake::start(move |request, before| match paths.get(&request.path) {
        None => Answer::new(404, br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        Some(_) if before == 0 => Answer::new(503, b"").header("Retry-After", "0"),
        Some(_) if before == 1 => Answer::new(429, b"").header("Retry-After", "0"),
        Some(bytes) => Answer::new(200, bytes),
    });
    let dir = Dir::new();
    let store = open(&dir.path("store"));
    pull(&store, &format!("{}/a:1", fake.address)).0.unwrap();
    let name = format!("{}/a:2", fake.address);
    let error = pull(&store, &name).0.unwrap_err();
    assert_eq!(error, format!("manifest for {name} not found: manifest unknown: manifest unknown"));

    let down = Fake::start(|_, _| Answer::new(500, br#"{"errors":[{"message":"out of\norder"}]}"#));
    let error = pull(&store, &format!("{}/a:1", down.address)).0.unwrap_err();
    assert!(error.contains("answered 500: out of\\norder"), "{error}");
    let manifests = down.requests().iter().filter(|r| r.path.contains("manifests")).count();
    assert_eq!(manifests, 5, "tries are bounded");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference = Reference::parse(&format!("{closed}/a:1")).unwrap();
    let error = store.pull(&reference, None, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with("cannot get manifest http://"), "{error}");
    // A registry that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let quick = RegistryConfig {
        read_timeout: std::time::Duration::from_millis(100),
        connect_timeout: std::time::Duration::from_millis(100),
        ..config()
    };
    let store = ImageStore::open(&dir.path("quick"), Platform::host(), quick).unwrap();
    let reference = Reference::parse(&format!("{}/a:1", silent.local_addr().unwrap())).unwrap();
    let start = std::time::Instant::now();
    let error = store.distribution(&reference, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

/// A key and a certificate for 10.99.0.1, signed by an authority of one's own.
fn certificates(dir: &Dir) -> String {
    let path = |name: &str| dir.path(name).display().to_string();
    let openssl = |line: &str| {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| word.strip_prefix('@').map_or_else(|| word.to_owned(), path))
            .collect();
        run("openssl", &words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    openssl(&format!("req -x509 {new_key} @ca.key -out @ca.pem -days 2 -subj /CN=own"));
    openssl(&format!("req -new {new_key} @key.pem -out @csr.pem -subj /CN=registry"));
    std::fs::write(dir.path("ext"), "subjectAltName=IP:10.99.0.1\n").unwrap();
    openssl(
        "x509 -req -in @csr.pem -CA @ca.pem -CAkey @ca.key -CAcreateserial -days 2 -extfile @ext \
         -out @cert.pem",
    );
    format!("  tls:\n    certificate: {}\n    key: {}\n", path("cert.pem"), path("key.pem"))
}

#[test]
fn https_is_checked_against_ones_own_authority() {
    // An address that is not loopback, in a network namespace of this thread.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["address", "add", "10.99.0.1/32", "dev", "lo"]);
    let dir = Dir::new();
    let secure = Registry::start_at("10.99.0.1:0", "", &certificates(&dir));
    let plain = Registry::start_at("10.99.0.1:0", "", "");
    let image = busybox_layout(&dir);
    for registry in [&secure, &plain] {
        copy(&format!("oci:{image}"), &format!("docker://{}", registry.name("a:1")), &[]);
    }
    let attempt = |registry: &Registry, config: RegistryConfig| {
        let dir = Dir::new();
        let store = ImageStore::open(&dir.path("store"), Platform::host(), config).unwrap();
        let reference = Reference::parse(&registry.name("a:1")).unwrap();
        store.pull(&reference, None, &mut |_| {}).map_err(|e| {
            assert_eq!(e.kind(), ErrorKind::Unavailable);
            format!("{e}: {}", std::error::Error::source(&e).unwrap())
        })
    };
    let own = || RegistryConfig { ca_files: vec![dir.path("ca.pem")], ..config() };
    let insecure = |host: String| RegistryConfig { insecure: vec![host], ..config() };
    attempt(&secure, own()).unwrap();
    attempt(&secure, RegistryConfig { system_ca_files: Vec::new(), ..own() }).unwrap();
    let error = attempt(&secure, config()).unwrap_err();
    assert!(error.contains("cannot get manifest https://10.99.0.1"), "{error}");
    assert!(error.contains("ertificate"), "{error}");
    attempt(&secure, insecure("10.99.0.1".to_owned())).unwrap();
    attempt(&plain, own()).unwrap_err();
    attempt(&plain, insecure(plain.address.to_string())).unwrap();
}

#[test]
fn where_nobody_listens_nothing_is_tried_again() {
    let dir = Dir::new();
    let registry = RegistryConfig { backoff: std::time::Duration::from_secs(60), ..config() };
    let store = ImageStore::open(&dir.path("store"), Platform::host(), registry).unwrap();
    let begun = std::time::Instant::now();
    let refused = pull(&store, "127.0.0.1:1/x:1").0.unwrap_err();
    assert!(refused.contains("127.0.0.1:1"), "{refused}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}
