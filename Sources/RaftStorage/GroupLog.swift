import RaftCore

/// Everything the log remembers of one group, in memory: what it recovers at a start, and where its records lie.
/// Changed by the writer thread under the log's lock, so that thread may read it without.
final class GroupLog {
    let group: LogGroup
    var entries = EntryIndex()
    var hardState: Placed<HardState>?
    var note: Placed<Bytes>?
    /// Nil: none, or paid.
    var debt: Placed<LogPosition>?
    /// What damage has cost the group its promises; nil: none.
    var loss: Placed<Damage>?
    /// Bytes of all records that say what is in here.
    fileprivate(set) var liveBytes = 0
    /// The batch that was gathered last with a write of this group, and which of its summaries is this group's. The
    /// writer's own.
    var batch: (number: UInt64, slot: Int) = (0, 0)
    /// Whether the log knows the group: it has something durable, and has not been dropped.
    var isListed = false

    init(group: LogGroup) {
        self.group = group
    }

    /// Adds what a write said, now that its records are durable, in the order in which they were gathered; `records` tells
    /// where each of them lies.
    func remember(_ write: UnsafePointer<LogWrite>, records: inout RecordPlaces, live: inout LiveBytes) {
        if write.pointee.drops {
            _ = records.next()
            return drop(live: &live)
        }
        if let state = write.pointee.hardState {
            let placed = Placed(value: state, location: records.next())
            live.replace(hardState?.location, by: placed.location, in: self)
            hardState = placed
        }
        if let debt = write.pointee.debt {
            let placed = Placed(value: debt, location: records.next())
            live.replace(self.debt?.location, by: debt == .zero ? nil : placed.location, in: self)
            self.debt = debt == .zero ? nil : placed
            _ = records.next()
        }
        if let start = write.pointee.start, entries.runs.moves(to: start) {
            let location = records.next()
            live.add(location, to: self)
            switch start {
            case .compact(let base):
                live.remove(entries.compact(to: Placed(value: base, location: location)), from: self)
            case .reset(let base):
                live.remove(entries.reset(to: Placed(value: base, location: location)), from: self)
            }
        }
        if let index = write.pointee.truncateFrom {
            live.remove(entries.truncate(behind: index.previous), from: self)
            _ = records.next()
        }
        if !write.pointee.entries.isEmpty {
            let first = records.position
            entries.append(write.pointee.entries, at: &records)
            live.add(records.byteCount(from: first), in: records.segment, to: self)
        }
        if let note = write.pointee.note {
            let placed = Placed(value: note.compacted, location: records.next())
            live.replace(self.note?.location, by: placed.location, in: self)
            self.note = placed
        }
        if let loss = write.pointee.loss {
            let placed = Placed(value: loss, location: records.next())
            live.replace(self.loss?.location, by: placed.location, in: self)
            self.loss = placed
            _ = records.next()
        } else if let old = loss, write.pointee.makesAllPromises {
            live.replace(old.location, by: nil, in: self)
            loss = nil
            _ = records.next()
        }
    }

    private func drop(live: inout LiveBytes) {
        var locations: [RecordLocation] = []
        forEachLocation { locations.append($0) }
        live.remove(locations, from: self)
        (entries, hardState, note, debt, loss) = (EntryIndex(), nil, nil, nil, nil)
        isListed = false
    }

    /// Where each record lies that says what is in here.
    func forEachLocation(_ body: (RecordLocation) -> Void) {
        for location in [
            hardState?.location, debt?.location, entries.base?.location, note?.location, loss?.location,
        ] {
            if let location { body(location) }
        }
        for location in entries.locations { body(location) }
    }

    /// The first segment that holds such a record; nil if there is none.
    var oldestSegment: UInt64? {
        var oldest = entries.oldestSegment ?? .max
        if let location = hardState?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = debt?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = loss?.location { oldest = min(oldest, UInt64(location.segment)) }
        if let location = note?.location { oldest = min(oldest, UInt64(location.segment)) }
        return oldest == .max ? nil : oldest
    }

    /// The same, for another thread.
    func copy() -> GroupLog {
        let copy = GroupLog(group: group)
        copy.entries = entries
        copy.hardState = hardState
        copy.note = note
        copy.debt = debt
        copy.loss = loss
        return copy
    }

    func recovered(damage: GroupDamage?) -> RecoveredGroup {
        let base = entries.base?.value
        return RecoveredGroup(
            hardState: hardState?.value ?? .initial, base: base?.position == .zero ? nil : base,
            termRuns: entries.runs.runs, lastIndex: entries.runs.last.index,
            configurations: entries.configurations, note: note?.value, debt: debt?.value, damage: damage)
    }
}

/// How much of each segment is still needed: the bytes of records that say what a group holds.
struct LiveBytes {
    /// Number of the segment that stands first in `bytes`.
    private var first: UInt32 = 0
    private var bytes: [Int] = []
    private(set) var total = 0

    /// In one segment.
    subscript(segment: UInt64) -> Int {
        guard segment >= UInt64(first), segment < UInt64(first) + UInt64(bytes.count) else { return 0 }
        return bytes[Int(segment - UInt64(first))]
    }

    mutating func add(_ location: RecordLocation, to log: GroupLog) {
        add(Int(location.byteCount), in: location.segment, to: log)
    }

    /// Records of so many bytes.
    mutating func add(_ count: Int, in segment: UInt32, to log: GroupLog) {
        change(segment, by: count)
        log.liveBytes += count
    }

    mutating func remove(_ locations: [RecordLocation], from log: GroupLog) {
        for location in locations {
            change(location.segment, by: -Int(location.byteCount))
            log.liveBytes -= Int(location.byteCount)
        }
    }

    mutating func replace(_ old: RecordLocation?, by new: RecordLocation?, in log: GroupLog) {
        if let old { remove([old], from: log) }
        if let new { add(new, to: log) }
    }

    /// Forgets the segments before one; nothing in them is alive.
    mutating func forget(before segment: UInt64) {
        guard segment > UInt64(first) else { return }
        bytes.removeFirst(min(Int(segment - UInt64(first)), bytes.count))
        first = UInt32(segment)
    }

    private mutating func change(_ segment: UInt32, by count: Int) {
        if bytes.isEmpty { first = segment }
        if segment < first {
            bytes.insert(contentsOf: repeatElement(0, count: Int(first - segment)), at: 0)
            first = segment
        }
        let position = Int(segment - first)
        if position >= bytes.count { bytes.append(contentsOf: repeatElement(0, count: position + 1 - bytes.count)) }
        bytes[position] += count
        total += count
    }
}
