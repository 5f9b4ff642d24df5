//! Updates and rollbacks.

use super::Wake;
use super::draft::Draft;

/// An update under way.
#[derive(Clone, Debug)]
pub(super) struct Update {}

pub(super) fn advance(_draft: &mut Draft<'_>, _update: &mut Option<Update>, _wake: &mut Wake) {}
