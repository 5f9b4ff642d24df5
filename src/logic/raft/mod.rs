//! stub
pub mod io;
pub mod codec;
use io::*; use std::sync::Arc; use crate::base::id::*; use crate::base::time::Time;
#[derive(Debug)] pub struct Raft;
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct RecoverError;
#[allow(unused)]
impl Raft {
 pub fn new(c: Config, r: Recovered, now: Time) -> Result<Self, RecoverError> { todo!() }
 pub fn bootstrap(&mut self, now: Time, out: &mut Vec<Output>) {}
 pub fn step(&mut self, now: Time, i: Input, out: &mut Vec<Output>) {}
 pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {}
 pub fn deadline(&self) -> Option<Time> { None }
 pub fn propose(&mut self, now: Time, d: Arc<[u8]>) -> Result<u64, ProposeError> { todo!() }
 pub fn change_members(&mut self, now: Time, d: MemberChange) -> Result<u64, ProposeError> { todo!() }
 pub fn read(&mut self, now: Time, r: RequestId, out: &mut Vec<Output>) {}
 pub fn transfer(&mut self, now: Time, to: Option<NodeId>, out: &mut Vec<Output>) -> Result<(), ProposeError> { todo!() }
 pub fn compact(&mut self, i: u64) {}
 pub fn send_snapshot(&mut self, now: Time, p: NodeId, s: Snapshot, out: &mut Vec<Output>) {}
 pub fn set_epoch(&mut self, e: u64) {}
 pub fn term(&self) -> u64 { 0 }
 pub fn last_index(&self) -> u64 { 0 }
 pub fn leader(&self) -> Option<NodeId> { None }
 pub fn members(&self) -> &Members { todo!() }
 pub fn is_active(&self, p: NodeId) -> bool { true }
 pub fn takes_proposals(&self) -> bool { true }
}
