//! The changes of a pod as a JSON patch (RFC 6902), which the webhook returns and `inject` applies.
//! Building it copies nothing of the pod.
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

fn pointer(path: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().copied())
}

/// A patch under construction. Each path refers to the pod as the edits before it leave it.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<PatchOperation>);

impl Edits {
    pub(super) fn add(&mut self, path: &[&str], value: Value) {
        self.0.push(PatchOperation::Add(AddOperation { path: pointer(path), value }));
    }

    pub(super) fn replace(&mut self, path: &[&str], value: Value) {
        self.0.push(PatchOperation::Replace(ReplaceOperation { path: pointer(path), value }));
    }

    pub(super) fn remove(&mut self, path: &[&str]) {
        self.0.push(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
    }

    pub(super) fn finish(self) -> Patch {
        Patch(self.0)
    }
}
