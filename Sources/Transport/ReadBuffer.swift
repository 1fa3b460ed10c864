internal import RaftCore

/// Where a connection's incoming bytes land: the unread ones, and room behind them in the same slab.
///
/// Invariants:
/// 1. A region of a slab is written once; slices of it may be kept, so what is read is never moved or overwritten
///    while somebody holds it.
/// 2. A frame of announced size is moved at most once, into a slab with room for all of it.
/// 3. Without unread bytes no slab is held: the rest of it goes back to the lane, so an idle connection costs none.
struct ReadBuffer {
    /// The unwritten rest of a slab, for whichever connection reads next.
    struct Spare {
        var slab: Slab
        var used: Int
    }

    static let slabBytes = 64 << 10
    /// Less room than this is not worth a system call.
    private static let roomMin = 4 << 10
    private static let spareMin = 16 << 10

    private var slab: Slab?
    private var start = 0
    private var end = 0
    private var needed = 0

    /// Bytes received and not consumed.
    var unreadCount: Int { end - start }

    /// The same bytes.
    var unread: Bytes {
        guard let slab else { return Bytes() }
        return Bytes(slab: slab, offset: start, count: end - start)
    }

    /// Memory for the next read, never empty.
    mutating func room(sparing spare: inout Spare?) -> UnsafeMutableRawBufferPointer {
        let least = needed > unreadCount ? needed - unreadCount : ReadBuffer.roomMin
        if slab == nil, let kept = spare, kept.slab.capacity - kept.used >= least {
            (slab, start, end) = (kept.slab, kept.used, kept.used)
            spare = nil
        }
        if slab == nil || slab!.capacity - end < least { grow(by: least) }
        return UnsafeMutableRawBufferPointer(start: slab!.base + end, count: slab!.capacity - end)
    }

    private mutating func grow(by least: Int) {
        let doubled = needed > unreadCount ? 0 : 2 * unreadCount
        let larger = Slab(capacity: max(ReadBuffer.slabBytes, unreadCount + least, doubled))
        if let slab { larger.base.copyMemory(from: slab.base + start, byteCount: unreadCount) }
        (slab, start, end) = (larger, 0, unreadCount)
    }

    /// `count` bytes were written to the room.
    mutating func append(_ count: Int) {
        precondition(count <= slab!.capacity - end)
        end += count
    }

    /// The reader has dealt with some of the unread bytes.
    mutating func consume(_ consumption: Consumption, sparing spare: inout Spare?) {
        precondition(consumption.consumed >= 0 && consumption.consumed <= unreadCount, "consumed more than there is")
        start += consumption.consumed
        needed = consumption.needed
        guard start == end else { return }
        let used = isKnownUniquelyReferenced(&slab) ? 0 : end
        if let slab, slab.capacity == ReadBuffer.slabBytes, slab.capacity - used >= ReadBuffer.spareMin {
            spare = Spare(slab: slab, used: used)
        }
        (slab, start, end) = (nil, 0, 0)
    }
}
