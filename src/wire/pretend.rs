//! A pretended wire version 2, for tests that let it live beside version 1: what it writes has sections, fields and
//! kinds of records that version 1 does not know, and it says that it speaks both.

use std::cell::Cell;

/// What version 2 says in every place of its own.
pub(super) const NEWS: &str = "of version 2";

/// A section, and a field of every record, that version 1 does not know.
pub(super) const TAG: u8 = 200;

/// A kind of record that version 1 does not know.
pub(super) const KIND: u8 = 201;

/// Instances of this service are stated as records of that kind.
pub(crate) const NEW_KIND: &str = "of-a-new-kind";

pub(super) const WIRE: (u8, u8) = (1, 2);

thread_local! {
    static IS_NEWER: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn is_newer() -> bool {
    IS_NEWER.get()
}

/// Does it as a node of version 2 would, if `is_newer`.
pub(crate) fn run<R>(is_newer: bool, doing: impl FnOnce() -> R) -> R {
    IS_NEWER.set(is_newer);
    let done = doing();
    IS_NEWER.set(false);
    done
}
