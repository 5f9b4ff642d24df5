//! Taking a container away, in the reverse order of its making. Tolerates anything half-made.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use nix::unistd::Pid;

use super::error::{Doing, RuntimeError, unless_absent};
use super::overlay::{is_mounted, unmount};
use super::shim_client::{ShimClient, is_final};
use super::volume::{VolumeUser, is_user};
use super::{Places, Runtime, SHIM_LIMIT, has_shim};
use crate::host::failpoint::{Point, hit};
use crate::host::tree::remove_tree;
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
        self.end_shim(task, &places)?;
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
        remove_tree(&data).doing("remove", &data)?;
        hit(Point::ContainerDataRemoved);
        Ok(())
    }

    /// Removes a volume that no task uses; Docker's words otherwise.
    ///
    /// # Errors
    /// When there is none of that name, it is in use, or the disk does not let go of it.
    pub fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.volumes.remove(name, || self.volume_users())
    }

    /// The names of the volumes that no task uses.
    ///
    /// # Errors
    /// When volumes or tasks cannot be listed.
    pub fn unused_volumes(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let users = self.volume_users()?;
        let mut names: BTreeSet<_> =
            self.volumes.list()?.into_iter().map(|volume| volume.name).collect();
        names.retain(|name| !users.iter().any(|user| is_user(user, name)));
        Ok(names)
    }

    /// The tasks of this node and the volumes that each has mounted.
    fn volume_users(&self) -> Result<Vec<VolumeUser>, RuntimeError> {
        let mut users = Vec::new();
        for task in self.tasks()? {
            let path = self.places(task).volumes();
            let text = unless_absent(std::fs::read_to_string(&path)).doing("read", &path)?;
            users.push((task, text.lines().map(str::to_owned).collect()));
        }
        Ok(users)
    }

    /// Takes away the empty folders and cgroups of the runtime itself, after the last task.
    pub fn purge(&self) {
        self.cgroups.remove_parent();
    }

    /// Kills the container and lets its shim go; a shim that does not is killed.
    fn end_shim(&self, task: TaskId, places: &Places) -> Result<(), RuntimeError> {
        if !has_shim(places)? {
            return Ok(());
        }
        let asked = match self.connect(places) {
            Ok(None) => return Ok(()),
            Ok(Some(client)) => ask_to_end(&client),
            Err(err) => Err(err),
        };
        if let Err(err) = asked {
            log::warn!("task {task}: {}; killing it", err.full_text());
            self.end_by_force(task, places)?;
        }
        let until = Instant::now() + SHIM_LIMIT;
        while has_shim(places)? {
            if Instant::now() >= until {
                return Err(RuntimeError::Shim("does not end".to_owned()));
            }
            nix::poll::poll(&mut [], 2u16).doing("wait for the shim in", &places.exec)?;
        }
        Ok(())
    }

    /// Ends a container whose shim does not answer, and the shim. What it runs of runc goes first,
    /// or that could still make a container that nobody owns; the shim goes last: its end says
    /// that the container is over.
    pub(super) fn end_by_force(&self, task: TaskId, places: &Places) -> Result<(), RuntimeError> {
        let (shims, below) = shim_processes(places)?;
        let runc_killed = kill_each(&below, "kill what the shim has started");
        let container_killed = self.cgroups.kill(&task.to_string());
        kill_each(&shims, "kill the shim")?;
        runc_killed.and(container_killed)
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

/// The shim's process, and those that it runs: they are in its session, the container is not.
/// Found by its arguments, which also tell a shim that takes no connection any more.
fn shim_processes(places: &Places) -> Result<(Vec<Pid>, Vec<Pid>), RuntimeError> {
    let words = [b"\0dir\0", places.exec.as_os_str().as_bytes(), b"\0"].concat();
    let (mut shims, mut sessions) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir("/proc").doing("list", "/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ends meanwhile reads as nothing.
        let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if args.windows(words.len()).any(|part| part == words) {
            shims.push(Pid::from_raw(pid));
        } else if let Ok(session) = nix::unistd::getsid(Some(Pid::from_raw(pid))) {
            sessions.push((Pid::from_raw(pid), session));
        }
    }
    sessions.retain(|(_, session)| shims.contains(session));
    Ok((shims, sessions.into_iter().map(|(pid, _)| pid).collect()))
}

/// One that is gone is fine.
fn kill_each(pids: &[Pid], doing: &'static str) -> Result<(), RuntimeError> {
    for pid in pids {
        match nix::sys::signal::kill(*pid, nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(source) => return Err(RuntimeError::System { doing, source }),
        }
    }
    Ok(())
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
    remove_tree(&places.exec).doing("remove", &places.exec)
}
