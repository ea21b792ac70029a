// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which allocations fail on demand.

use std::collections::BTreeMap;

use mmkit_addr::NodeId;

/// The plan, and how often it struck.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Calls until the one that fails, that one included.
    pub(super) nth: Option<u64>,
    /// The period, and calls since the last failure.
    pub(super) every: Option<(u64, u64)>,
    /// The most frames that may be out.
    pub(super) limit: Option<u64>,
    /// The most frames of a node that may be out.
    pub(super) node_limits: BTreeMap<NodeId, u64>,
    /// Calls that failed by plan since the allocator was made.
    pub(super) injected: u64,
}

impl Faults {
    /// Counts one call; whether it must fail.
    pub(super) fn strikes(&mut self) -> bool {
        let mut strikes = false;
        if let Some(left) = &mut self.nth {
            *left -= 1;
            if *left == 0 {
                self.nth = None;
                strikes = true;
            }
        }
        if let Some((period, since)) = &mut self.every {
            *since += 1;
            if since == period {
                *since = 0;
                strikes = true;
            }
        }
        strikes
    }

    /// Whether the plan lets `out` frames be out.
    pub(super) fn allows(&self, out: u64) -> bool {
        self.limit.is_none_or(|limit| out <= limit)
    }

    /// Whether the plan lets `out` frames of `node` be out.
    pub(super) fn allows_on(&self, node: NodeId, out: u64) -> bool {
        self.node_limits.get(&node).is_none_or(|&limit| out <= limit)
    }

    /// Forgets the plan, not the count.
    pub(super) fn heal(&mut self) {
        *self = Self { injected: self.injected, ..Self::default() };
    }
}
