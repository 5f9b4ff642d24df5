//! tiny_http behind the front: threads that take requests and answer them.
//!
//! **Threads.** tiny_http has one that accepts and a pool of at least four that read heads. The
//! threads here answer: there is always one waiting for a request, more come as requests do, at
//! most [`WORKERS_MAX`], and go when they are not needed. The front lets no more requests in than
//! there may be threads, so nothing queues for long.

use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tiny_http::{Header, Request, Response, StatusCode};

use super::call::Call;
use super::front::CONNECTION_HEADER;
use super::respond::{Reply, StreamWriter, common_headers};
use super::{Api, handlers};

/// Most threads that answer requests.
pub const WORKERS_MAX: usize = 64;

/// Waiting threads beyond this many end.
const SPARE_WORKERS: usize = 2;

/// Pause before the server is set up again after its listener broke.
const REBUILD_PAUSE: Duration = Duration::from_millis(200);

/// What the threads share.
pub(super) struct Server {
    http: tiny_http::Server,
    api: Arc<Api>,
    waiting: AtomicUsize,
    total: AtomicUsize,
    /// The listener broke, or the API stops.
    over: AtomicBool,
}

/// Answers requests at `path` until `stopping` is set and [`Server`] is unblocked; sets the server
/// up again when its listener breaks.
pub(super) fn run(path: &Path, api: &Arc<Api>, ready: &SyncSender<io::Result<()>>) {
    let mut first = Some(ready);
    while !api.stopping.load(Ordering::Acquire) {
        let built = listen(path).and_then(|listener| {
            tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)
        });
        let http = match (built, first.take()) {
            (Ok(http), ready) => {
                if ready.is_some_and(|ready| ready.send(Ok(())).is_err()) {
                    return;
                }
                http
            }
            (Err(error), Some(ready)) => {
                if let Err(unheard) = ready.send(Err(error)) {
                    log::error!("starting the API server: {unheard}");
                }
                return;
            }
            (Err(error), None) => {
                log::error!("setting the API server up again: {error}");
                std::thread::sleep(REBUILD_PAUSE);
                continue;
            }
        };
        let server = Arc::new(Server {
            http,
            api: Arc::clone(api),
            waiting: AtomicUsize::new(0),
            total: AtomicUsize::new(1),
            over: AtomicBool::new(false),
        });
        api.serving(&server);
        work(&server, true);
    }
}

/// The internal socket: nobody but root may connect, from its first moment on.
fn listen(path: &Path) -> io::Result<UnixListener> {
    super::socket::remove(path)?;
    super::socket::bind(path, 0o600)
}

impl Server {
    /// Wakes the threads that wait, for the last time.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        for _ in 0..self.total.load(Ordering::Acquire) {
            self.http.unblock();
        }
    }
}

/// Answers requests until the server is over, or until there are threads enough; the first thread
/// always stays.
fn work(server: &Arc<Server>, first: bool) {
    loop {
        server.waiting.fetch_add(1, Ordering::AcqRel);
        let received = server.http.recv();
        let others = server.waiting.fetch_sub(1, Ordering::AcqRel) - 1;
        let request = match received {
            Ok(request) => request,
            Err(error) => {
                if !server.over.load(Ordering::Acquire) {
                    log::error!("the API server's listener: {error}");
                    server.end();
                }
                break;
            }
        };
        if others == 0 {
            spawn(server);
        }
        serve(&server.api, request);
        if server.over.load(Ordering::Acquire) {
            break;
        }
        if !first && server.waiting.load(Ordering::Acquire) >= SPARE_WORKERS {
            break;
        }
    }
    server.total.fetch_sub(1, Ordering::AcqRel);
}

/// One more thread, unless there are enough.
fn spawn(server: &Arc<Server>) {
    if server.total.fetch_add(1, Ordering::AcqRel) < WORKERS_MAX {
        let theirs = Arc::clone(server);
        let thread = std::thread::Builder::new().name("api".to_owned());
        match thread.spawn(move || work(&theirs, false)) {
            Ok(_detached) => return,
            Err(error) => log::warn!("starting another API thread: {error}"),
        }
    }
    server.total.fetch_sub(1, Ordering::AcqRel);
}

fn serve(api: &Arc<Api>, mut request: Request) {
    let method = request.method().to_string();
    let url = request.url().to_owned();
    let chunked = *request.http_version() >= (1, 1);
    let headers = request.headers().iter();
    let headers =
        headers.map(|header| (header.field.to_string(), header.value.to_string())).collect();
    let reply = {
        // tiny_http asks the client to go on (100) as soon as the reader is taken: only when read.
        let mut body = Lazy { request: &mut request };
        let mut call = Call::new(method.clone(), headers, &mut body);
        call.connection = call.header(CONNECTION_HEADER).parse().unwrap_or(0);
        call.set_target(&url).and_then(|()| handlers::handle(api, &mut call))
    };
    let reply = reply.unwrap_or_else(|error| {
        log::debug!("API: {method} {url}: {} {error}", error.status);
        Reply::error(&error)
    });
    if let Err(error) = send(request, reply, chunked) {
        log::debug!("API: {method} {url}: the client is gone: {error}");
    }
}

/// A body that is asked for when it is first read.
struct Lazy<'a> {
    request: &'a mut Request,
}

impl Read for Lazy<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.request.as_reader().read(bytes)
    }
}

fn send(request: Request, reply: Reply, chunked: bool) -> io::Result<()> {
    match reply {
        Reply::Whole { status, content_type, headers, body } => {
            let mut response = Response::from_data(body).with_status_code(StatusCode(status));
            let common = common_headers().into_iter().chain(headers);
            let typed = (!content_type.is_empty())
                .then(|| ("Content-Type", content_type.to_owned()));
            for (name, value) in common.chain(typed) {
                match Header::from_bytes(name, value) {
                    Ok(header) => response.add_header(header),
                    Err(()) => log::warn!("the header {name} cannot be sent"),
                }
            }
            request.respond(response)
        }
        Reply::Stream { content_type, write } => {
            let mut writer = StreamWriter::begin(request.into_writer(), content_type, chunked)?;
            write(&mut writer)?;
            writer.finish()
        }
    }
}
