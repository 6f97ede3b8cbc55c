//! Values by member id: a map in order of the ids that takes little memory beside its values, for there is one for each
//! pair of members of a cluster. Knows nothing of what it holds.

use std::ops::Index;

use crate::peer::NodeId;

/// How far from where it is likely to stand an id is looked for first.
const NEAR: usize = 8;

/// A map from ids to `T`. An id costs twelve bytes beside its value, an entry that was removed is used again, and there
/// is never room for more than an eighth more.
#[derive(Debug)]
pub(crate) struct ById<T> {
    /// In order.
    ids: Vec<NodeId>,
    /// Where the value of each of them is, in the same order.
    places: Vec<u32>,
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> ById<T> {
    pub(crate) const fn new() -> Self {
        Self { ids: Vec::new(), places: Vec::new(), values: Vec::new(), free: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn contains_key(&self, id: NodeId) -> bool {
        self.find(id).is_ok()
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&T> {
        let index = self.find(id).ok()?;
        self.values[self.places[index] as usize].as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut T> {
        let index = self.find(id).ok()?;
        self.values[self.places[index] as usize].as_mut()
    }

    /// Puts a value in; gives the one that was there.
    ///
    /// # Panics
    /// If there are more than four billion.
    pub(crate) fn insert(&mut self, id: NodeId, value: T) -> Option<T> {
        let index = match self.find(id) {
            Ok(index) => return self.values[self.places[index] as usize].replace(value),
            Err(index) => index,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            grow(&mut self.values);
            self.values.push(None);
            u32::try_from(self.values.len() - 1).expect("members are limited to far fewer")
        });
        self.values[place as usize] = Some(value);
        grow(&mut self.ids);
        self.ids.insert(index, id);
        grow(&mut self.places);
        self.places.insert(index, place);
        None
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<T> {
        let index = self.find(id).ok()?;
        self.ids.remove(index);
        let place = self.places.remove(index);
        self.free.push(place);
        self.values[place as usize].take()
    }

    /// All, in order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        let at = |place: &u32| self.values[*place as usize].as_ref().expect("every id has a value");
        self.ids.iter().copied().zip(self.places.iter().map(at))
    }

    /// All values, in order of their ids.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// All values, in no order that means anything.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }

    /// The index of an id, or the one where it would be.
    fn find(&self, id: NodeId) -> Result<usize, usize> {
        let len = self.ids.len();
        // Ids are random: one is likely to stand as far along as its value is among all values. So a lookup touches a
        // few neighbours, where halving the whole would touch a dozen places far apart.
        let guess = ((u128::from(id.0) * len as u128) >> u64::BITS) as usize;
        let is_before = |index: usize| self.ids[index] < id;
        let (mut low, mut high) = (guess, guess);
        let mut step = NEAR;
        while high < len && is_before(high) {
            low = high + 1;
            high = (high + step).min(len);
            step *= 2;
        }
        while low > 0 && !is_before(low - 1) {
            high = low - 1;
            low = low.saturating_sub(step);
            step *= 2;
        }
        let index = low + self.ids[low..high].partition_point(|other| *other < id);
        if self.ids.get(index) == Some(&id) { Ok(index) } else { Err(index) }
    }
}

impl<T> Index<NodeId> for ById<T> {
    type Output = T;

    /// The value of an id that is there.
    ///
    /// # Panics
    /// If it is not.
    fn index(&self, id: NodeId) -> &T {
        self.get(id).expect("the caller knows that it is there")
    }
}

/// Makes room for one more, and for an eighth of what there is: twice as much, as a vector takes by itself, is too much
/// where there is one for each pair of members.
pub(crate) fn grow<T>(vec: &mut Vec<T>) {
    if vec.len() == vec.capacity() {
        vec.reserve_exact(vec.len() / 8 + 3);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..40, any::<u64>(), (u64::MAX - 9)..=u64::MAX]
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_holds(
            acts in prop::collection::vec((ids(), 0u8..4), 0..300)
        ) {
            let mut map = ById::new();
            let mut model = BTreeMap::new();
            for (number, &(id, act)) in acts.iter().enumerate() {
                let id = NodeId(id);
                if act == 0 {
                    prop_assert_eq!(map.remove(id), model.remove(&id));
                } else {
                    prop_assert_eq!(map.insert(id, number), model.insert(id, number));
                }
                prop_assert_eq!(map.get(id), model.get(&id));
                prop_assert_eq!(map.len(), model.len());
            }
            prop_assert!(map.iter().eq(model.iter().map(|(id, value)| (*id, value))));
            for id in model.keys() {
                prop_assert_eq!(map.get(*id), model.get(id));
                let other = NodeId(id.0.wrapping_add(1));
                prop_assert_eq!(map.contains_key(other), model.contains_key(&other));
            }
        }
    }

    #[test]
    fn what_was_removed_makes_room_for_what_comes() {
        let mut map = ById::new();
        for round in 0..100 {
            map.insert(NodeId(round), round);
            map.remove(NodeId(round));
        }
        assert_eq!((map.len(), map.values.len()), (0, 1));
    }
}
