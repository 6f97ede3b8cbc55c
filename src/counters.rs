//! What a node has counted since its start: one named number per thing that can happen to it.

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What a node has counted since its start.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter's name and value, in the order in which they are declared.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// Adds what somebody else counted.
            pub(crate) const fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Datagrams handed in.
    datagrams_received,
    /// Datagrams given out.
    datagrams_sent,
    /// Bytes of datagrams handed in.
    bytes_received,
    /// Bytes of datagrams given out.
    bytes_sent,
    /// Datagrams that could not be read.
    malformed,
    /// Datagrams of another cluster.
    other_cluster,
    /// Datagrams of a wire version that we do not speak.
    other_version,
    /// Datagrams from somebody we do not know.
    strangers,
    /// Datagrams for another life of ours, or for somebody else.
    misaddressed,
    /// Datagrams that we sent ourselves.
    echoes,
    /// Sections with a tag that we do not know; skipped.
    unknown_sections,
    /// Refusals received.
    refusals_received,
    /// Refusals sent.
    refusals_sent,
    /// Refusals not sent, because of the limit on them.
    refusals_limited,
    /// Warnings about a sender that were not told, because one was told of late, or about too many senders.
    warnings_limited,
    /// Hellos sent.
    hellos_sent,
    /// Hellos received.
    hellos_received,
    /// Hellos not answered, because of the limit on them.
    hellos_limited,
    /// Answers to our Hellos.
    hellos_answered,
    /// Answers to a Hello that we did not send, or too late.
    hellos_unasked,
    /// Addresses not tried, because too many wait to be tried.
    contacts_limited,
    /// Records of ours that changed.
    own_changes,
    /// Changes of ours that were refused, because they came too fast.
    own_changes_limited,
    /// Records of others received as rumors, new ones and known ones.
    rumors_received,
    /// Of these, records that were new here.
    rumors_new,
    /// Records sent as rumors: one per record and datagram.
    rumors_sent,
    /// Records not kept for lazy repeats, because the queue was full.
    rumors_limited,
    /// Records of an earlier start of their owner; dropped.
    old_epochs,
    /// Records of owners that left or were forgotten; dropped.
    buried,
    /// Records of an owner that is not known (yet); kept for a while.
    limbo,
    /// Records of an unknown owner that were dropped, because too many waited.
    limbo_limited,
    /// Records that were dropped, because their owner or the cluster has too many.
    records_limited,
    /// Records that were dropped, because their owner changes them too fast; anti-entropy brings the last of them.
    changes_limited,
    /// Members not let in, because there are too many.
    members_limited,
    /// Goodbyes of members that are not known here, dropped because too many were under way.
    goodbyes_limited,
    /// Graves cleared before their time, because there were too many.
    graves_limited,
    /// Large records fetched over a stream.
    bodies_fetched,
    /// Large records that could not be fetched; anti-entropy brings them.
    bodies_failed,
    /// Large records not fetched at once, because too many were under way.
    bodies_limited,
    /// Canaries made, for seeing how long news takes.
    canaries_made,
    /// Canaries not taken in, because too many members make some.
    canaries_limited,
    /// Syncs begun because a fingerprint kept differing or a gap lasted.
    syncs,
    /// Syncs that failed; tried again later.
    syncs_failed,
    /// Records that a sync brought.
    synced_records,
    /// Bytes of questions asked over streams.
    stream_bytes_asked,
    /// Bytes of answers given over streams.
    stream_bytes_answered,
    /// Questions over streams that could not be read.
    stream_malformed,
    /// Fingerprints received that equalled ours.
    fingerprints_equal,
    /// Fingerprints received that differed from ours.
    fingerprints_different,
    /// Times we were called dead wrongly, and renewed ourselves.
    renewals,
    /// Times we were called dead, and did not renew because of the limit on renewals.
    renewals_limited,
    /// Notices sent: our records, to one member, to be confirmed.
    notices_sent,
    /// Of these, those that were sent again because no receipt came.
    notices_repeated,
    /// Receipts for our notices.
    receipts_received,
    /// Receipts that we were not waiting for: they came twice, or too late.
    receipts_unasked,
    /// Notices of others, which we confirm.
    notices_received,
    /// Of these, those not confirmed yet, because a record of them is not here.
    notices_unconfirmed,
    /// Times our address changed, and we told everybody.
    readdresses,
    /// Times the others knew a later start of ours, and we took a larger epoch.
    epochs_taken,
    /// Members that we saw go down.
    members_down,
    /// Members that became unreachable.
    members_unreachable,
    /// Members that were unreachable and came back.
    members_back,
    /// Verdicts that we published.
    verdicts_published,
    /// Verdicts received, new ones and known ones.
    verdicts_received,
    /// Verdicts sent: one per verdict and datagram.
    verdicts_sent,
    /// Verdicts not believed, because they had too few witnesses, and we reached the member.
    verdicts_disputed,
    /// Verdicts that were left aside, because too many in one datagram or answer were in dispute.
    disputes_limited,
    /// Times that others accused us.
    accused,
    /// Of these, the times that we refuted it.
    refutations,
    /// Members that an operator gave up and that were not looked into, because too many were being forgotten.
    forgets_limited,
    /// Probes sent: observing, witnessing and trying.
    probes_sent,
    /// Of these, those that were answered.
    probes_answered,
    /// Members that did not answer us, neither at first nor at once again.
    probes_failed,
    /// Members about whom we asked others.
    accusations,
    /// Of these, those whom others reach.
    accusations_cleared,
    /// Of these, those on whom too few others answered us.
    accusations_undecided,
    /// Of these, those begun anew because the accused answered some of the probes: silence that ended, or loss.
    accusations_renewed,
    /// Accusations not begun, because the one before came to nothing and we doubt ourselves.
    accusations_withheld,
    /// Accusations not begun, because too many were under way.
    accusations_limited,
    /// Questions about a member that others asked us.
    asks_received,
    /// Of these, those not answered, because too many were under way.
    asks_limited,
    /// Answers to our questions about a member.
    reports_received,
    /// Accusations in which a quorum found the same.
    convictions,
    /// Members that we found to answer as others do again.
    releases,
    /// Times that we stood still for so long that our probes did not count.
    stalls,
    /// Times that nobody answered us.
    cut_off,
    /// Members that said goodbye.
    members_left,
    /// Membership updates that were dropped, because they were about a life that is over.
    updates_dropped,
    /// Errors of the membership protocol's integration.
    bugs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_told_by_name() {
        let counters = Counters { renewals: 3, ..Counters::default() };
        assert_eq!(counters.each().find(|(name, _)| *name == "renewals"), Some(("renewals", 3)));
    }
}
