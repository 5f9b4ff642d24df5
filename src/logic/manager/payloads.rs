//! Secrets, configs and resources: made, labelled, removed. What secrets and configs
//! hold never changes; a service names the one that it was made with.

use super::Manager;
use super::command::Asked;
use super::io::{CommandError, Payload};
use crate::base::id::{ConfigId, RequestId, ResourceId, SecretId};
use crate::base::time::Now;
use crate::model::entry::{Change, Precondition};
use crate::model::object::{Meta, Object, ObjectId};
use crate::model::payload::{CONFIG_BYTES_MAX, Config, SECRET_BYTES_MAX, Secret};
use crate::model::resource::{PAYLOAD_BYTES_MAX, Resource};
use crate::model::service::Labels;

/// Longest name (swarmkit `manager/controlapi/common.go`).
const NAME_CHARS_MAX: usize = 64;

impl Manager {
    pub(super) fn create_secret(&mut self, now: Now, request: RequestId, new: Payload) -> Asked {
        check("secret", &new, SECRET_BYTES_MAX)?;
        if self.lead.planned.secret_named(&new.name).is_some() {
            return Err(taken("secret", &new.name));
        }
        let id = SecretId::new(self.rng.next_u128());
        let Payload { name, labels, data, templating } = new;
        let secret = Secret { id, meta: Meta::default(), name, labels, data, templating };
        self.put(
            now,
            request,
            Precondition::Absent(ObjectId::Secret(id)),
            Object::Secret(Box::new(secret)),
        )
    }

    pub(super) fn create_config(&mut self, now: Now, request: RequestId, new: Payload) -> Asked {
        check("config", &new, CONFIG_BYTES_MAX)?;
        if self.lead.planned.config_named(&new.name).is_some() {
            return Err(taken("config", &new.name));
        }
        let id = ConfigId::new(self.rng.next_u128());
        let Payload { name, labels, data, templating } = new;
        let config = Config { id, meta: Meta::default(), name, labels, data, templating };
        self.put(
            now,
            request,
            Precondition::Absent(ObjectId::Config(id)),
            Object::Config(Box::new(config)),
        )
    }

    pub(super) fn label_secret(
        &mut self,
        now: Now,
        request: RequestId,
        id: SecretId,
        version: u64,
        labels: Labels,
    ) -> Asked {
        let old = self.lead.planned.secret(id).ok_or_else(|| missing("secret", &id))?;
        let secret = Secret { labels, ..old.as_ref().clone() };
        let current = Precondition::Version(ObjectId::Secret(id), version);
        in_sequence(old.meta.version, version)?;
        self.put(now, request, current, Object::Secret(Box::new(secret)))
    }

    pub(super) fn label_config(
        &mut self,
        now: Now,
        request: RequestId,
        id: ConfigId,
        version: u64,
        labels: Labels,
    ) -> Asked {
        let old = self.lead.planned.config(id).ok_or_else(|| missing("config", &id))?;
        let config = Config { labels, ..old.as_ref().clone() };
        let current = Precondition::Version(ObjectId::Config(id), version);
        in_sequence(old.meta.version, version)?;
        self.put(now, request, current, Object::Config(Box::new(config)))
    }

    pub(super) fn remove_secret(&mut self, now: Now, request: RequestId, id: SecretId) -> Asked {
        let old = self.lead.planned.secret(id).ok_or_else(|| missing("secret", &id))?;
        let users = self.lead.planned.services_with(ObjectId::Secret(id));
        in_use("secret", &old.name, users.map(|it| it.spec.name.to_string()).collect())?;
        self.remove(now, request, ObjectId::Secret(id), old.meta.version)
    }

    pub(super) fn remove_config(&mut self, now: Now, request: RequestId, id: ConfigId) -> Asked {
        let old = self.lead.planned.config(id).ok_or_else(|| missing("config", &id))?;
        let users = self.lead.planned.services_with(ObjectId::Config(id));
        in_use("config", &old.name, users.map(|it| it.spec.name.to_string()).collect())?;
        self.remove(now, request, ObjectId::Config(id), old.meta.version)
    }

    /// Without a version: the last one to write wins.
    pub(super) fn set_resource(
        &mut self,
        now: Now,
        request: RequestId,
        kind: String,
        name: String,
        payload: Vec<u8>,
    ) -> Asked {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(CommandError::Invalid(format!(
                "a resource of {} bytes is not taken, the limit is {PAYLOAD_BYTES_MAX}",
                payload.len()
            )));
        }
        let resource = match self.lead.planned.resource_named(&kind, &name) {
            Some(old) => Resource { payload, ..old.as_ref().clone() },
            None => {
                let id = ResourceId::new(self.rng.next_u128());
                let (meta, labels) = (Meta::default(), Labels::new());
                Resource { id, meta, kind, name, labels, payload }
            }
        };
        let put = Change::Put(Object::Resource(Box::new(resource)));
        self.write_asked(now, request, Vec::new(), vec![put])?;
        Ok(None)
    }

    pub(super) fn remove_resource(
        &mut self,
        now: Now,
        request: RequestId,
        id: ResourceId,
    ) -> Asked {
        let old = self.lead.planned.resource(id).ok_or_else(|| missing("resource", &id))?;
        self.remove(now, request, ObjectId::Resource(id), old.meta.version)
    }
}

fn in_sequence(is: u64, asked: u64) -> Result<(), CommandError> {
    if is == asked { Ok(()) } else { Err(CommandError::OutOfSequence) }
}

fn check(what: &str, new: &Payload, limit: usize) -> Result<(), CommandError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if new.name.is_empty() || new.name.len() > NAME_CHARS_MAX || !new.name.chars().all(legal) {
        return Err(CommandError::Invalid(format!(
            "rpc error: code = InvalidArgument desc = invalid name, only {NAME_CHARS_MAX} \
             [a-zA-Z0-9-_.] characters allowed, and the start and end character must be \
             [a-zA-Z0-9]"
        )));
    }
    if new.data.is_empty() || new.data.len() >= limit {
        return Err(CommandError::Invalid(format!(
            "rpc error: code = InvalidArgument desc = {what} data must be larger than 0 and less \
             than {limit} bytes"
        )));
    }
    Ok(())
}

fn taken(what: &str, name: &str) -> CommandError {
    CommandError::Conflict(format!(
        "rpc error: code = AlreadyExists desc = {what} {name} already exists"
    ))
}

fn missing(what: &str, id: &dyn std::fmt::Display) -> CommandError {
    CommandError::NotFound(format!("{what} {id} not found"))
}

fn in_use(what: &str, name: &str, users: Vec<String>) -> Result<(), CommandError> {
    let services = match users.len() {
        0 => return Ok(()),
        1 => "service",
        _ => "services",
    };
    Err(CommandError::Invalid(format!(
        "rpc error: code = InvalidArgument desc = {what} '{name}' is in use by the following \
         {services}: {}",
        users.join(", ")
    )))
}
