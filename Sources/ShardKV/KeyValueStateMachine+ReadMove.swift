public import RaftCore
public import ShardMap

// What a source sends of a shard. Any replica that has applied OPEN gives right answers, each at its own applied index,
// and the destination may ask another one every time:
//
// The scan sends each pair as it is somewhere behind OPEN, and goes wholly before the changes, which begin at OPEN. Every
// change of a pair behind OPEN is remembered at its entry; a key sent for the entry i is sent as it is at i or later. So
// the last state of a key is always sent last.

extension KeyValueStateMachine {
    /// Bytes of one answer at most, whatever is asked for; exceeded by one key.
    static let movePageBytes = 1 << 20
    /// Keys of changes looked at for one answer.
    private static let changedKeysMax = 16_384
    /// Entries that are counted for the estimate of what is left.
    private static let countedChangesMax = 4096
    /// Nobody freezes a shard with so much left.
    private static let countedBytesMax = 1 << 20

    /// Says what of a moving shard comes next. Call on the worker, on any replica of the source; it works for a time that
    /// the bytes asked for bound.
    public func readMove(_ request: ReadMoveRequest) throws(StateMachineError) -> ReadMoveReply {
        try stoppingOnFailure { () throws(StateMachineError) in
            guard let fence = fences[request.shard], fence.operation >= request.operation else {
                return ReadMoveReply(error: .refused, message: "operation \(request.operation) has not begun here")
            }
            guard fence.operation == request.operation, fence.phase == .open || fence.phase == .frozen,
                let position = position(of: request.shard, epoch: request.epoch)
            else {
                return ReadMoveReply(
                    error: .staleOperation, message: "operation \(request.operation) is over here: \(fence.phase)")
            }
            let cursor = request.cursor.flatMap { MoveCursor($0) }
            guard request.cursor == nil || cursor != nil, request.tail.rawValue < .max else {
                return ReadMoveReply(error: .badRequest)
            }
            let page = MovePage(bytes: min(max(request.bytes, 1), KeyValueStateMachine.movePageBytes))
            var reply: ReadMoveReply
            switch cursor?.place {
            case .changes(let index, let place):
                reply = try readChanges(request, page, at: index, place, sent: cursor?.sent)
            case .scan(let key) where request.tail == .zero:
                reply = try scanMoving(shards[position].shard, page, from: key, sent: cursor?.sent, fence)
            case nil where request.tail == .zero:
                reply = try scanMoving(shards[position].shard, page, from: Bytes(), sent: nil, fence)
            case nil: reply = try readChanges(request, page, at: request.tail.next, 0, sent: nil)
            case .scan: return ReadMoveReply(error: .badRequest)
            }
            reply.replicatedTime = keyspace.replicatedTime
            if fence.phase == .frozen, reply.cursor == nil, reply.tail > .zero {
                reply.isComplete = reply.bytesLeft == 0
            }
            return reply
        }
    }

    /// Sends pairs as they lie in the store: the session table, then the data.
    private func scanMoving(
        _ shard: Shard, _ start: MovePage, from first: Bytes, sent: MoveCursor.Sent?, _ fence: ShardFence
    ) throws(StateMachineError) -> ReadMoveReply {
        var (page, sent, next) = (start, sent, MoveCursor?.none)
        /// False once the page is full.
        func send(_ key: Bytes, _ value: Bytes?) -> Bool {
            defer { sent = nil }
            switch page.add(key, value, from: sent) {
            case .whole: return true
            case .none: next = MoveCursor(.scan(key))
            case .part(let part): next = MoveCursor(.scan(key), sent: part)
            }
            return false
        }
        if sent != nil, try store.get(ReplicaKeys.key(of: store.layout.replicaNumber, first)) == nil {
            _ = send(first, nil)
        }
        let from = ReplicaKeys.key(of: store.layout.replicaNumber, first)
        let layout = store.layout
        var ranges = [layout.keys(of: .sessions, shard.id), layout.keys(of: .replies, shard.id)]
        if planted("sessions-stay-behind") { ranges = [] }
        for range in ranges + [layout.dataKeys(of: shard.range)] where next == nil {
            guard max(range.start, from) < range.end else { continue }
            try store.scan(from: max(range.start, from), to: range.end) { key, value in
                send(key.suffix(from: ReplicaKeys.prefixBytes), value)
            }
        }
        // the last change before the tail is OPEN's own entry, which changes no pair
        return ReadMoveReply(
            pairs: page.pairs, cursor: next?.encoded, tail: next == nil ? fence.openedAt : .zero,
            bytesLeft: next == nil ? try bytesChanged(of: shard.id, from: fence.openedAt.next) : nil)
    }

    /// Sends what has changed, entry by entry.
    private func readChanges(
        _ request: ReadMoveRequest, _ start: MovePage, at index: LogIndex, _ place: Int, sent: MoveCursor.Sent?
    ) throws(StateMachineError) -> ReadMoveReply {
        var (page, sent, next) = (start, sent, MoveCursor?.none)
        var tail = request.tail
        var keysLeft = KeyValueStateMachine.changedKeysMax
        // for lookup only
        var sentKeys: Set<Bytes> = []
        let isKnown = request.cursor == nil ? request.tail <= lastApplied : index <= lastApplied
        let range = changeKeys(of: request.shard, from: index)
        try store.scan(from: range.start, to: range.end) { (key, value) throws(StateMachineError) in
            let entry = try KeyValueStateMachine.entry(ofChange: key)
            let keys = try ChangeRecord(stored: value).keys
            for position in (entry == index ? min(place, keys.count) : 0)..<keys.count {
                defer { sent = nil }
                guard !sentKeys.contains(keys[position]) else { continue }
                let stored = try self.store.get(ReplicaKeys.key(of: self.store.layout.replicaNumber, keys[position]))
                keysLeft -= 1
                switch keysLeft < 0 ? .none : page.add(keys[position], stored, from: sent) {
                case .whole:
                    // what was only taken back is still to be sent, at the change that made it another
                    if stored == nil || page.pairs.last?.value != nil { sentKeys.insert(keys[position]) }
                case .none: next = MoveCursor(.changes(entry, position: position))
                case .part(let part): next = MoveCursor(.changes(entry, position: position), sent: part)
                }
                if next != nil { return false }
            }
            tail = entry
            return true
        }
        // a replica that has not come as far as the cursor does not know what is there
        if !isKnown {
            let hasEverything = request.cursor == nil && tail == lastApplied
            return ReadMoveReply(cursor: request.cursor, tail: tail, bytesLeft: hasEverything ? 0 : nil)
        }
        let left = try bytesChanged(of: request.shard, from: tail.next)
        return ReadMoveReply(
            pairs: page.pairs, cursor: next?.encoded, tail: tail, bytesLeft: next == nil ? left : max(left, 1))
    }

    /// What is remembered from the entry `index` on, as far as it is counted.
    private func bytesChanged(of shard: UInt64, from index: LogIndex) throws(StateMachineError) -> UInt64 {
        var (bytes, records): (UInt64, Int) = (0, 0)
        let range = changeKeys(of: shard, from: index)
        try store.scan(from: range.start, to: range.end) { (_, value) throws(StateMachineError) in
            var reader = try StoreFormat.open(value, .changes)
            guard let size = reader.number() else { throw StoreFormat.damaged(.changes) }
            bytes += size
            records += 1
            return records < KeyValueStateMachine.countedChangesMax && bytes < KeyValueStateMachine.countedBytesMax
        }
        return bytes
    }

    private func changeKeys(of shard: UInt64, from index: LogIndex) -> (start: Bytes, end: Bytes) {
        let start = store.layout.key(.changes, shard, UInt64(bitPattern: index.rawValue))
        return (start, store.layout.keys(of: .changes, shard).end)
    }

    private static func entry(ofChange key: Bytes) throws(StateMachineError) -> LogIndex {
        var reader = ByteReader(key, from: KeyLayout.prefixBytes + 8)
        guard let index = reader.signedNumber(), reader.isAtEnd else { throw StoreFormat.damaged(.changes) }
        return LogIndex(index)
    }
}
