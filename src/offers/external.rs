//! Things that cannot run a member: an agent offers them, and says so in their metadata.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::OfferError;
use crate::record::{Instance, Key};

/// The metadata that names the node of an external instance; there is none on others.
pub const EXTERNAL_NODE: &str = "tidings-external-node";

/// The metadata with the address of that node.
pub const EXTERNAL_ADDRESS: &str = "tidings-external-address";

/// The metadata with the id of the instance on that node.
pub const EXTERNAL_ID: &str = "tidings-external-id";

/// The node that an instance runs on that is offered by another one's agent: a database appliance, a load balancer, a
/// service of somebody else. Its agent vouches for it: it runs its checks, and while the agent cannot be reached, the
/// instance is taken for unreachable too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct External {
    /// The name of the node.
    pub node: Arc<str>,
    /// The address of the node.
    pub address: Arc<str>,
    /// The id of the instance there: as an instance of the agent it is `NODE/ID`.
    pub id: Arc<str>,
}

impl External {
    /// What the metadata of an instance says; `None` for one that runs where its member does.
    pub fn of(instance: &Instance) -> Option<Self> {
        let node = instance.meta.get(EXTERNAL_NODE)?;
        let text = |key: &str| instance.meta.get(key).cloned().unwrap_or_else(|| Arc::from(""));
        Some(Self { node: Arc::clone(node), address: text(EXTERNAL_ADDRESS), id: text(EXTERNAL_ID) })
    }

    /// The id as an instance of the agent.
    pub fn key(&self) -> Key {
        Key::from(format!("{}/{}", self.node, self.id).as_str())
    }

    /// The instance with this in its metadata, and with [`key`](Self::key) as its id.
    pub(super) fn mark(&self, instance: Instance) -> Instance {
        instance
            .with_id(self.key().as_str())
            .with_meta(EXTERNAL_NODE, Arc::clone(&self.node))
            .with_meta(EXTERNAL_ADDRESS, Arc::clone(&self.address))
            .with_meta(EXTERNAL_ID, Arc::clone(&self.id))
    }
}

/// What only [`External::mark`] writes.
const MARKS: [&str; 3] = [EXTERNAL_NODE, EXTERNAL_ADDRESS, EXTERNAL_ID];

/// Whether nobody else has written it: such an instance would pass for one of another node.
pub(super) fn check_unmarked(instance: &Instance) -> Result<(), OfferError> {
    match MARKS.into_iter().find(|mark| instance.meta.contains_key(*mark)) {
        Some(key) => Err(OfferError::Reserved { key }),
        None => Ok(()),
    }
}

/// Whether it says the same after a change.
pub(super) fn check_marks(before: &Instance, after: &Instance) -> Result<(), OfferError> {
    match MARKS.into_iter().find(|mark| before.meta.get(*mark) != after.meta.get(*mark)) {
        Some(key) => Err(OfferError::Reserved { key }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_gives_an_id_of_its_own() {
        let instance = Instance::new("db", std::net::SocketAddr::from(([10, 0, 0, 9], 5432))).expect("it is right");
        let external = External { node: "rds".into(), address: "10.0.0.9".into(), id: "db-1".into() };
        assert_eq!(External::of(&instance), None);
        let marked = external.mark(instance);
        assert_eq!(marked.id.as_str(), "rds/db-1");
        assert_eq!(External::of(&marked), Some(external));
        assert_eq!(marked.check(), Ok(()));
    }
}
