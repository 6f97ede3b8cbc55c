//! Hashes that every member computes alike, on every platform and in every version: who owns a key follows from them.
//! Knows nothing of clocks, seeds of this process or addresses in memory.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The hash of a caller's key: XXH3 with 64 bits and no seed.
///
/// ```
/// // The vector that XXH3 publishes for no bytes at all.
/// assert_eq!(tidings::select::key_hash(b""), 0x2d06_8005_38d3_94c2);
/// ```
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The hash of where an instance stands: by the names of its member and itself, so that a restart keeps its keys.
pub(super) fn place_hash(member: &str, id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), xxh3_64(member.as_bytes()))
}

/// One hash of two.
pub(super) fn pair_hash(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    xxh3_64(&bytes)
}

/// What a place of this weight bids for a key; the lowest bid gets it. Weighted rendezvous: bids are exponentially
/// distributed with the weight as their rate, so the share of the lowest bids is the share of the weight (Schindelhauer
/// and Schomaker, "Weighted distributed hash tables", 2005). No bid at all for weight 0.
pub(super) fn bid(key: u64, place: u64, weight: f64) -> f64 {
    if weight <= 0.0 {
        return f64::INFINITY;
    }
    // The middle of one of 2^53 equal parts of (0, 1): never 0, never 1.
    let unit = ((pair_hash(key, place) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -ln(unit) / weight
}

/// The natural logarithm of a normal number, of additions, multiplications and divisions alone: those are the same to
/// the last bit on every platform, and the logarithm of a platform's library is not.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const ONE: u64 = 1023 << 52;
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mut m = f64::from_bits((bits & MANTISSA) | ONE);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 artanh(s), |s| < 0.1716: the eleventh term is below 2^-53 of the first.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in (0..=10).rev() {
        sum = sum * square + 1.0 / f64::from(2 * odd + 1);
    }
    2.0 * s * sum + exponent * std::f64::consts::LN_2
}

/// `e^-x` for `x >= 0`, to about 3 %: one division instead of a call of the platform's library.
pub(super) fn decay(x: f64) -> f64 {
    1.0 / (1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x / 24.0))))
}

/// The next of a sequence without a visible pattern: splitmix64 (Steele, Lea and Flood, 2014) of a counter.
pub(super) fn scramble(counter: u64) -> u64 {
    let mut z = counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The step of the counter that [`scramble`] takes.
pub(super) const SCRAMBLE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_what_they_were_when_members_first_agreed_on_them() {
        // XXH3's own vectors where there is one; the others were computed when this was written and must never change.
        assert_eq!(key_hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(key_hash(b"a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(key_hash(b"abc"), 0x78af_5f94_892f_3950);
        assert_eq!(place_hash("node-1", "web@node-1:80"), xxh3_64_with_seed(b"web@node-1:80", key_hash(b"node-1")));
        // Splitmix64 with seed 0: the published first value.
        assert_eq!(scramble(SCRAMBLE_STEP), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn our_logarithm_is_the_logarithm() {
        let mut x = f64::from_bits(0x3c90_0000_0000_0000);
        while x < 1.0 {
            let (ours, std) = (ln(x), x.ln());
            assert!((ours - std).abs() <= 1e-14 * std.abs().max(1e-2), "ln({x}) = {ours}, not {std}");
            x *= 1.0173;
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn decay_falls_from_one_to_nothing_and_stays_near_the_exponential() {
        assert_eq!(decay(0.0), 1.0);
        let mut before = 1.0;
        for step in 1..400 {
            let x = f64::from(step) * 0.05;
            let now = decay(x);
            assert!(now < before && (now - (-x).exp()).abs() < 0.03, "decay({x}) = {now}");
            before = now;
        }
    }

    #[test]
    fn two_names_that_join_alike_stand_in_different_places() {
        assert_ne!(place_hash("ab", "c"), place_hash("a", "bc"));
    }
}
