//! Taking a container away, in the reverse order of its making. Tolerates anything half-made.

use std::path::Path;
use std::time::Instant;

use nix::sys::socket::sockopt::PeerCredentials;

use super::error::{Doing, RuntimeError, unless_absent};
use super::overlay::{is_mounted, unmount};
use super::shim_client::{ShimClient, is_final};
use super::{Places, Runtime, SHIM_LIMIT, has_shim};
use crate::host::failpoint::{Point, hit};
use crate::base::id::TaskId;
use crate::base::shim_wire::Request;

impl Runtime {
    /// Ends the container and takes away what only a running one needs: processes, cgroup,
    /// mounts. The log, the exit record and the writable layer stay.
    ///
    /// # Errors
    /// When something does not go away; calling again goes on from there.
    pub fn clean(&self, task: TaskId) -> Result<(), RuntimeError> {
        let (places, id) = (self.places(task), task.to_string());
        self.end_shim(&places)?;
        hit(Point::ContainerShimEnded);
        if self.runc.knows(&id) && !places.exit_record().exists() && places.data.exists() {
            // Kept so that what is found later is an end and not an unstarted container.
            let path = places.lost();
            std::fs::write(&path, b"").doing("write", &path)?;
        }
        self.runc.delete(&id)?;
        hit(Point::ContainerDeleted);
        self.cgroups.remove(&id)?;
        hit(Point::ContainerCgroupRemoved);
        remove_exec(&places)?;
        hit(Point::ContainerExecRemoved);
        Ok(())
    }

    /// Takes away everything of a task, with its anonymous volumes.
    ///
    /// # Errors
    /// As [`clean`](Self::clean).
    pub fn remove(&self, task: TaskId) -> Result<(), RuntimeError> {
        self.clean(task)?;
        self.volumes.remove_of(task)?;
        hit(Point::ContainerVolumesRemoved);
        let data = self.places(task).data;
        unless_absent(std::fs::remove_dir_all(&data)).doing("remove", &data)?;
        hit(Point::ContainerDataRemoved);
        Ok(())
    }

    /// Removes a volume that no task uses; Docker's words otherwise.
    ///
    /// # Errors
    /// When there is none of that name, it is in use, or the disk does not let go of it.
    pub fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.volumes.remove(name, || {
            let mut users = Vec::new();
            for task in self.tasks()? {
                let path = self.places(task).volumes();
                let text = unless_absent(std::fs::read_to_string(&path)).doing("read", &path)?;
                users.push((task, text.lines().map(str::to_owned).collect()));
            }
            Ok(users)
        })
    }

    /// Takes away the empty folders and cgroups of the runtime itself, after the last task.
    pub fn purge(&self) {
        self.cgroups.remove_parent();
    }

    /// Kills the container and lets its shim go; a shim that does not is killed.
    fn end_shim(&self, places: &Places) -> Result<(), RuntimeError> {
        if !has_shim(places)? {
            return Ok(());
        }
        let Some(client) = self.connect(places)? else { return Ok(()) };
        if let Err(err) = ask_to_end(&client) {
            log::warn!("{}; killing it", err.full_text());
            kill_peer(&client)?;
        }
        drop(client);
        let until = Instant::now() + SHIM_LIMIT;
        while has_shim(places)? {
            if Instant::now() >= until {
                return Err(RuntimeError::Shim("does not end".to_owned()));
            }
            nix::poll::poll(&mut [], 2u16).doing("wait for the shim in", &places.exec)?;
        }
        Ok(())
    }
}

/// Kills the container, waits for its end, and dismisses the shim. A runc that is still making or
/// starting it is killed first, or it would go on when nobody owns the container any more.
fn ask_to_end(client: &ShimClient) -> Result<(), RuntimeError> {
    client.hello()?;
    let Some(state) = client.wait_state(SHIM_LIMIT, |_| true)? else { return Ok(()) };
    if !is_final(&state) {
        client.send(Request::Signal { number: nix::libc::SIGKILL })?;
        if client.wait_state(SHIM_LIMIT, is_final)?.is_none() {
            return Ok(());
        }
    }
    client.send(Request::Bye)?;
    // Its end closes the connection; a record that cannot be written keeps it alive.
    match client.wait_state(SHIM_LIMIT, |_| false)? {
        Some(_) | None => Ok(()),
    }
}

/// Kills the process at the other end.
fn kill_peer(client: &ShimClient) -> Result<(), RuntimeError> {
    let peer = nix::sys::socket::getsockopt(client, PeerCredentials);
    let peer = peer.map_err(|source| RuntimeError::System { doing: "find the shim", source })?;
    match nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(peer.pid()),
        nix::sys::signal::Signal::SIGKILL,
    ) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(source) => Err(RuntimeError::System { doing: "kill the shim", source }),
    }
}

/// Unmounts the root file system and removes the task's folder below the exec root.
pub(super) fn remove_exec(places: &Places) -> Result<(), RuntimeError> {
    let root = places.root();
    if root.exists() {
        unmount(&root)?;
        if is_mounted(&root)? {
            // Removing through it would delete the container's files.
            return Err(std::io::Error::from(nix::errno::Errno::EBUSY)).doing("unmount", &root);
        }
    }
    remove_dir(&places.exec)
}

fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    unless_absent(std::fs::remove_dir_all(path)).doing("remove", path)
}
