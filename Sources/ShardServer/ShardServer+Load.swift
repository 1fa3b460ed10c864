import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// What a node tells the controller's leader, when that asks: the load of the groups that it leads. What is told is at
// hand: operations are counted as they come, and sizes are estimated apart from the lane and come with the next answer.

/// A group's load, as its leader tells it.
struct ReportedGroup: Sendable {
    fileprivate static let bytesMax: UInt64 = 1 << 56

    var group: String
    var term: Term
    var leader: PeerID
    /// The other members whose logs end where the leader's does, or nearly. A foreign one must be in touch as well: no node
    /// tells of it.
    var caughtUp: [PeerID] = []
    var bytes: UInt64 = 0
    var shards: [ReportedShard] = []
    /// The members, committed, if the map that the leader knows has others; else none.
    var members: [PeerID] = []

    /// A shard's load.
    struct ReportedShard: Sendable {
        var shard: UInt64
        var bytes: UInt64
        var operations: Double
        var busyKey: Bytes?
        var middleKey: Bytes?
    }
}

/// Some of the groups that a node leads, ascending by name.
struct LoadPage {
    var groups: [ReportedGroup] = []
    /// Whether there are others behind the last one.
    var hasMore = false
    /// Other programs' groups in which the node is a member; on the first page.
    var guests: [String] = []
}

/// A map's nodes and groups, for lookup.
struct MapIndex {
    private(set) var version: UInt64 = 0
    /// Positions in the map's list.
    private(set) var groups: [String: Int] = [:]
    private(set) var nodes: Set<NodeAddress> = []

    init() {}

    init(_ map: ClusterMap) {
        version = map.version
        groups = Dictionary(map.groups.enumerated().map { ($1.id, $0) }) { first, _ in first }
        nodes = Set(map.nodes.map(\.address))
    }
}

/// What the groups led here take, as far as it was estimated.
struct GroupSizes {
    struct Entry: Sendable {
        var applied: LogIndex
        var at: Instant
        var bytes: UInt64
        var shards: [ShardSize]

        /// Whether all middles were looked for.
        var isComplete: Bool { shards.allSatisfy { $0.hasMiddle } }

        /// Whether it is about exactly these.
        func isOf(_ owned: [Shard]) -> Bool { shards.elementsEqual(owned) { $0.shard == $1 } }
    }

    struct ShardSize: Sendable {
        var shard: Shard
        var bytes: UInt64
        var hasMiddle = false
        var middle: Bytes?
    }

    /// For lookup only.
    var entries: [String: Entry] = [:]
    var isUnderWay = false
    /// Behind which group the next estimates begin.
    var cursor = ""
}

extension ShardServer {
    /// Entries that a member may lack and still counts as caught up.
    private static let lag = 1000
    /// Groups of one answer.
    private static let pageGroups = 1000
    /// Keys in one answer, in bytes.
    private static let pageBytes = 256 << 10
    /// A group that goes on changing is estimated anew after so long.
    private static let sizesAge = Interval.milliseconds(10_000)
    /// Groups looked at for changes at a time.
    private static let groupsAtOnce = 1000
    /// Groups estimated at a time.
    private static let sizesAtOnce = 512
    /// Middles looked for at a time.
    private static let middlesAtOnce = 16
    /// Names of guests in one answer.
    fileprivate static let guestsMax = 1000
    /// A longer key is cut: what divides the keys need not be one of them.
    private static let middleBytes = 256

    func leadershipOfGroupChanged(_ group: String, _ isLeader: Bool) {
        let position = firstLed { $0 >= group }
        let isListed = position < ledGroups.count && ledGroups[position] == group
        if isLeader, !isListed { ledGroups.insert(group, at: position) }
        if !isLeader, isListed { ledGroups.remove(at: position) }
        if !isLeader { sizes.entries[group] = nil }
    }

    /// The first of the led groups for which `isBehind` holds, as it does for every one after that.
    private func firstLed(_ isBehind: (String) -> Bool) -> Int {
        var (low, high) = (0, ledGroups.count)
        while low < high {
            let middle = (low + high) / 2
            if isBehind(ledGroups[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    // MARK: telling

    /// The groups led here whose names are behind `name`.
    func loadPage(after name: String?) -> LoadPage {
        let now = lane.clock.now
        if name == nil { refreshSizes(now) }
        let first = name.map { name in firstLed { $0 > name } } ?? 0
        if name == nil { rates = counts.rates(now: now) }
        var ranges: [UInt64: KeyRange] = [:]
        for group in ledGroups[first...].prefix(ShardServer.pageGroups) {
            for shard in machines[group]?.ownedShards ?? [] { counts.admit(shard.id) }
            for size in sizes.entries[group]?.shards ?? [] { ranges[size.shard.id] = size.shard.range }
        }
        let busyKeys = counts.busyKeys(of: ranges)
        var page = LoadPage()
        if let map, mapIndex.version != map.version { mapIndex = MapIndex(map) }
        if name == nil {
            let guests = host.records.lazy.filter { $0.kind == ReplicaKind.guest }.map(\.group)
            page.guests = Array(guests.prefix(ShardServer.guestsMax))
        }
        var keyBytes = 0
        for group in ledGroups[first...] {
            guard page.groups.count < ShardServer.pageGroups, keyBytes < ShardServer.pageBytes else {
                page.hasMore = true
                break
            }
            guard var load = loadOfMembers(group) else { continue }
            if let entry = sizes.entries[group] {
                load.bytes = entry.bytes
                load.shards = entry.shards.map { size in
                    ReportedGroup.ReportedShard(
                        shard: size.shard.id, bytes: size.bytes, operations: rates[size.shard.id] ?? 0,
                        busyKey: busyKeys[size.shard.id], middleKey: size.middle)
                }
                keyBytes += load.shards.reduce(0) { $0 + ($1.busyKey?.count ?? 0) + ($1.middleKey?.count ?? 0) }
            }
            page.groups.append(load)
        }
        return page
    }

    private func loadOfMembers(_ group: String) -> ReportedGroup? {
        guard let raft = host.raft(of: group), raft.isLeader else { return nil }
        let last = raft.lastIndex
        let caughtUp = raft.configuration.members.filter { peer in
            guard peer != raft.id, let progress = raft.progress(of: peer), !progress.isInstalling else { return false }
            guard mapIndex.nodes.contains(peer.address) || host.hearsForeigner(at: peer.address) else { return false }
            return progress.match.distance(to: last) <= ShardServer.lag
        }
        var load = ReportedGroup(group: group, term: raft.term, leader: raft.id, caughtUp: caughtUp)
        if let known = map?.groups, let position = mapIndex.groups[group] {
            load.members = raft.membersUnlike(known[position].peers)
        }
        return load
    }

    // MARK: estimating

    /// Estimates what has changed, some of it, apart from the lane.
    private func refreshSizes(_ now: Instant) {
        guard !sizes.isUnderWay else { return }
        let start = firstLed { $0 > sizes.cursor }
        var due: [(group: String, machine: KeyValueStateMachine, applied: LogIndex, former: GroupSizes.Entry?)] = []
        // in turn: no pass is long, however many there are
        for group in (ledGroups[start...] + ledGroups[..<start]).prefix(ShardServer.groupsAtOnce) {
            guard due.count < ShardServer.sizesAtOnce else { break }
            sizes.cursor = group
            guard let machine = machines[group] else { continue }
            let applied = machine.appliedPosition.index
            let entry = sizes.entries[group]
            // a shard that was cut has another middle
            if let entry, entry.isComplete, entry.isOf(machine.ownedShards),
                entry.applied == applied || now - entry.at < ShardServer.sizesAge
            {
                continue
            }
            due.append((group, machine, applied, entry))
        }
        guard !due.isEmpty else { return }
        sizes.isUnderWay = true
        host.runAside { [due] in
            ShardServer.entries(of: due, now)
        } completion: { [self] entries in
            sizes.isUnderWay = false
            for (group, entry) in entries where host.leads(group) { sizes.entries[group] = entry }
        }
    }

    private static func entries(
        of due: [(group: String, machine: KeyValueStateMachine, applied: LogIndex, former: GroupSizes.Entry?)],
        _ now: Instant
    ) -> [(String, GroupSizes.Entry)] {
        var entries: [(String, GroupSizes.Entry)] = []
        /// Middles to look for: position of the entry and of the shard.
        var wanted: [(bytes: UInt64, entry: Int, shard: Int)] = []
        for (group, machine, applied, former) in due {
            // whoever serves the group will hear of a store that fails
            guard let found = try? machine.sizes() else { continue }
            let shards = found.shards.map { shard, bytes in
                var size = GroupSizes.ShardSize(shard: shard, bytes: bytes)
                if let known = former?.shards.first(where: { $0.shard == shard }), known.hasMiddle,
                    max(known.bytes, bytes) - min(known.bytes, bytes) <= bytes / 4
                {
                    // as large as it was when the middle was looked for, or nearly
                    size.bytes = known.middle == nil ? bytes : known.bytes
                    (size.hasMiddle, size.middle) = (true, known.middle)
                }
                return size
            }
            for (position, size) in shards.enumerated() where !size.hasMiddle {
                wanted.append((size.bytes, entries.count, position))
            }
            entries.append(
                (group, GroupSizes.Entry(applied: applied, at: now, bytes: found.bytes, shards: shards)))
        }
        for (_, entry, shard) in wanted.sorted(by: { ($0.bytes, $1.entry) > ($1.bytes, $0.entry) })
            .prefix(ShardServer.middlesAtOnce)
        {
            guard let machine = due.first(where: { $0.group == entries[entry].0 })?.machine else { continue }
            let key = try? machine.middleKey(of: entries[entry].1.shards[shard].shard.range)
            entries[entry].1.shards[shard].hasMiddle = true
            entries[entry].1.shards[shard].middle = key.map {
                $0.slice(from: 0, count: min($0.count, ShardServer.middleBytes)).compacted
            }
        }
        return entries
    }

    // MARK: on the wire

    func answerLoad(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> String?? in
            arena.unpack(flotilla__load_request__init, request.body).map {
                $0.pointee.after.map { String(cString: $0) }
            }
        }
        guard let after = parsed else { return request.responder.fail(RpcCode.badRequest, "malformed request") }
        let page = loadPage(after: after)
        arena.scope { arena in
            let reply = arena.make(flotilla__load_reply__init)
            reply.pointee.n_groups = page.groups.count
            reply.pointee.groups = arena.array(page.groups.map { $0.encoded(arena) })
            if page.hasMore { (reply.pointee.has_more, reply.pointee.more) = (1, 1) }
            reply.pointee.n_guests = page.guests.count
            reply.pointee.guests = arena.strings(page.guests)
            request.responder.reply(reply)
        }
    }
}

extension ReportedGroup {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__GroupLoad>? {
        let message = arena.make(flotilla__group_load__init)
        message.pointee.group = arena.string(group)
        message.pointee.term = term.rawValue
        message.pointee.leader = arena.string(leader.description)
        message.pointee.n_caught_up = caughtUp.count
        message.pointee.caught_up = arena.strings(caughtUp.map(\.description))
        message.pointee.bytes = bytes
        message.pointee.n_members = members.count
        message.pointee.members = arena.strings(members.map(\.description))
        message.pointee.n_shards = shards.count
        message.pointee.shards = arena.array(
            shards.map { shard -> UnsafeMutablePointer<Flotilla__ShardLoad>? in
                let message = arena.make(flotilla__shard_load__init)
                message.pointee.shard = shard.shard
                message.pointee.bytes = shard.bytes
                message.pointee.operations = shard.operations
                if let key = shard.busyKey {
                    (message.pointee.has_busy_key, message.pointee.busy_key) = (1, arena.data(key))
                }
                if let key = shard.middleKey {
                    (message.pointee.has_middle_key, message.pointee.middle_key) = (1, arena.data(key))
                }
                return message
            })
        return message
    }

    /// Nil if it is malformed.
    fileprivate init?(_ message: Flotilla__GroupLoad) {
        guard let leader = PeerID(String(field: message.leader)),
            let caughtUp = PeerID.decoded(message.caught_up, count: message.n_caught_up),
            let members = PeerID.decoded(message.members, count: message.n_members)
        else { return nil }
        // whatever a node tells can be counted with
        self.init(
            group: String(field: message.group), term: Term(message.term), leader: leader, caughtUp: caughtUp,
            bytes: min(message.bytes, ReportedGroup.bytesMax), members: members)
        shards = (0..<message.n_shards).compactMap { position in
            guard let shard = message.shards[position]?.pointee else { return nil }
            return ReportedShard(
                shard: shard.shard, bytes: min(shard.bytes, ReportedGroup.bytesMax),
                operations: shard.operations.isFinite ? min(max(shard.operations, 0), 1e15) : 0,
                busyKey: shard.has_busy_key != 0 ? Bytes(shard.busy_key) : nil,
                middleKey: shard.has_middle_key != 0 ? Bytes(shard.middle_key) : nil)
        }
    }
}

extension LoadPage {
    /// Nil if it is malformed.
    init?(_ body: Bytes, _ arena: Arena) {
        let page = arena.scope { arena -> LoadPage? in
            guard let reply = arena.unpack(flotilla__load_reply__init, body)?.pointee, reply.error == 0 else {
                return nil
            }
            let groups = (0..<reply.n_groups).compactMap { reply.groups[$0].flatMap { ReportedGroup($0.pointee) } }
            guard groups.count == reply.n_groups else { return nil }
            let guests = (0..<min(reply.n_guests, ShardServer.guestsMax)).map { String(field: reply.guests[$0]) }
            return LoadPage(
                groups: groups, hasMore: reply.has_more != 0 && reply.more != 0 && !groups.isEmpty, guests: guests)
        }
        guard let page else { return nil }
        self = page
    }
}

extension Raft {
    /// The members, if they are committed and not being changed, and others than those named; else none.
    fileprivate func membersUnlike(_ known: [PeerID]) -> [PeerID] {
        guard hasCommittedConfiguration, !isChangingMembership else { return [] }
        let members = configuration.members
        let isSame = members.count == known.count && known.allSatisfy { members.contains($0) }
        return isSame ? [] : configuration.listed
    }
}
