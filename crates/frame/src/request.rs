// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a caller asks a frame allocator for.

use mmkit_addr::{NodeId, Order, ZoneId};

/// A request for one naturally aligned block of frames.
///
/// ```
/// use mmkit_addr::{NodeId, Order};
/// use mmkit_frame::Request;
///
/// // 512 zeroed frames in one piece (2 MiB of 4 KiB pages), from node 1 and no other.
/// let node = NodeId::new(1).expect("a small node number");
/// let request = Request::new(Order::new(9).expect("a small order")).on_node(node).strict().zeroed();
/// assert_eq!(request.order.frames(), 512);
/// assert!(request.strict && request.zeroed && !request.movable);
/// ```
///
/// Source: ours. (Linux: `gfp_t`: `__GFP_THISNODE`, `__GFP_ZERO`, `__GFP_MOVABLE` and the zone modifiers.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// log2 of the number of frames.
    pub order: Order,
    /// The node to prefer; other nodes are tried when it has nothing, unless `strict`.
    pub node: NodeId,
    /// Fail rather than take a frame of another node.
    pub strict: bool,
    /// The zone to take it from, and no other; `None` leaves it to the allocator.
    pub zone: Option<ZoneId>,
    /// A hint: the contents may be moved to another frame later, so the block may come from where only such may be.
    pub movable: bool,
    /// Every byte is zero when the block is handed out.
    pub zeroed: bool,
}

impl Request {
    /// A block of `order` on node 0: any zone, not movable, contents arbitrary.
    #[must_use]
    pub const fn new(order: Order) -> Self {
        Self { order, node: NodeId::ZERO, strict: false, zone: None, movable: false, zeroed: false }
    }

    /// The same request, preferring `node`.
    #[must_use]
    pub const fn on_node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// The same request, failing rather than leaving its node.
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The same request, in `zone` only.
    #[must_use]
    pub const fn in_zone(mut self, zone: ZoneId) -> Self {
        self.zone = Some(zone);
        self
    }

    /// The same request, for contents that may be moved.
    #[must_use]
    pub const fn movable(mut self) -> Self {
        self.movable = true;
        self
    }

    /// The same request, for zeroed contents.
    #[must_use]
    pub const fn zeroed(mut self) -> Self {
        self.zeroed = true;
        self
    }
}
