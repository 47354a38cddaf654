//! What is to change in a pod, as a JSON patch (RFC 6902): the webhook answers with it, `inject` applies it. Nothing of the pod is copied
//! for it.
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

fn pointer(place: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(place.iter().copied())
}

/// A patch in the making. Each place is as the edits before it leave the pod.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<PatchOperation>);

impl Edits {
    pub(super) fn add(&mut self, place: &[&str], value: Value) {
        self.0.push(PatchOperation::Add(AddOperation { path: pointer(place), value }));
    }

    pub(super) fn replace(&mut self, place: &[&str], value: Value) {
        self.0.push(PatchOperation::Replace(ReplaceOperation { path: pointer(place), value }));
    }

    pub(super) fn remove(&mut self, place: &[&str]) {
        self.0.push(PatchOperation::Remove(RemoveOperation { path: pointer(place) }));
    }

    pub(super) fn finish(self) -> Patch {
        Patch(self.0)
    }
}
