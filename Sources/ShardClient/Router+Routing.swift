internal import RaftCore
internal import ShardMap

// Which shard a part goes to, and what a changed map means for what has a route already.

extension Router {
    /// Queues `part` at the shard that owns its keys; in several parts if several do. One that `isNew` is answered where
    /// too much waits already.
    func route(_ part: Part, atFront: Bool = false, isNew: Bool = false) {
        guard let map, let home = map.shardPosition(owning: part.firstKey) else { return park(part) }
        if part.lies(in: map.shards[home].range) {
            enqueue(part, on: channels[home], atFront, isNew)
        } else {
            scatter(part, over: map, atFront, isNew)
        }
    }

    private func enqueue(_ part: Part, on channel: ShardChannel, _ atFront: Bool, _ isNew: Bool) {
        if isNew, let patience = settings.queuePatience,
            channel.isCrowded(part.call.takenAt, patience, writes: part.isWrite)
        {
            return fail(part, .busy, "others have waited for the shard for \(patience.milliseconds) ms")
        }
        channel.enqueue(part, atFront: atFront)
        touch(channel)
    }

    /// Groups `part`'s run of the call's order by shard, keeping the order inside each.
    private func scatter(_ part: Part, over map: ClusterMap, _ atFront: Bool, _ isNew: Bool) {
        let call = part.call
        var homes: [(home: Int, position: Int32)] = []
        homes.reserveCapacity(part.operationCount)
        for slot in part.slots {
            let position = call.position(slot)
            guard let home = map.shardPosition(owning: call.operations[position].key) else { return park(part) }
            homes.append((home, Int32(position)))
        }
        homes.sort { $0 < $1 }
        if call.order.isEmpty { call.order = Array(0..<Int32(call.operations.count)) }
        var start = part.slots.lowerBound
        for (number, element) in homes.enumerated() {
            let slot = part.slots.lowerBound + Int32(number)
            call.order[Int(slot)] = element.position
            guard number + 1 == homes.count || homes[number + 1].home != element.home else { continue }
            enqueue(Part(call, start..<slot + 1), on: channels[element.home], atFront, isNew)
            start = slot + 1
        }
    }

    private func park(_ part: Part) {
        unrouted.append(part)
        refresh.isWanted = true
    }

    /// Takes `newer` for the map: channels follow their shards, what is queued is routed again where its shard changed.
    /// Requests under way find out when they are sent the next time; those that pause do not wait for that any more.
    func adopt(_ newer: ClusterMap) {
        let older = map
        map = newer
        refresh.learn(newer)
        var routes: [String: GroupRoute] = [:]
        let nodes = Set(newer.nodes.map(\.address))
        for group in newer.groups {
            let route = groups[group.id] ?? GroupRoute(group.id)
            route.update(group, nodes: nodes)
            routes[group.id] = route
        }
        groups = routes

        var displaced: [Part] = []
        let former = channels
        var byID: [UInt64: ShardChannel] = [:]
        channels = newer.shards.map { shard in
            let channel = channelsByID[shard.id] ?? makeChannel(to: shard, older, former)
            if channel.shard != shard {
                displaced += channel.change(to: shard)
                touch(channel)
            }
            channel.group = routes[shard.group]
            byID[shard.id] = channel
            return channel
        }
        channelsByID = byID
        for channel in former where byID[channel.shard.id] == nil {
            displaced += channel.retire()
            touch(channel)
        }
        displaced += unrouted.removeAll()
        for part in displaced { route(part) }
        for channel in watching {
            for request in channel.requests { request.goOn() }
            touch(channel)
        }
        forgetWatchers()
    }

    /// For a shard that is new in the map. It has the table of the one that it was cut from, with the session in it; if
    /// not, it says so.
    private func makeChannel(to shard: Shard, _ older: ClusterMap?, _ former: [ShardChannel]) -> ShardChannel {
        guard let origin = older?.shardPosition(owning: shard.range.start).map({ former[$0] }) else {
            return ShardChannel(shard, SharedWindow(size: settings.windowPerSession))
        }
        let channel = ShardChannel(shard, origin.window)
        channel.session = origin.session
        return channel
    }

    /// Finds a place for a request whose shard has changed; false if it is not to be sent now. As long as it cannot
    /// have been executed its parts are simply routed again. Otherwise it stays whole, and goes to the shard that owns its
    /// first key: whatever became of the one that may have executed it, that shard's table has the answer, though not
    /// all of the keys may be its own.
    func rehome(_ request: Request) -> Bool {
        let channel = request.channel
        request.command = nil
        if request.kind == .open {
            request.layout = channel.layout
            if channel.isRetired { remove(request) }
            return !channel.isRetired
        }
        if !channel.isRetired && request.parts.allSatisfy({ $0.lies(in: channel.shard.range) }) {
            request.layout = channel.layout
            return true
        }
        guard request.mayHaveExecuted else {
            dissolve(request)
            return false
        }
        guard let map, let home = map.shardPosition(owning: request.parts[0].firstKey) else {
            watchMap(request)
            return false
        }
        if channels[home] !== channel {
            channel.requests.removeAll { $0 === request }
            request.channel = channels[home]
            channels[home].requests.append(request)
            touch(channels[home])
        }
        request.layout = channels[home].layout
        return true
    }

    /// Routes the parts of a request that was certainly not executed again, in front of what is queued.
    func dissolve(_ request: Request) {
        let parts = request.parts.filter { !$0.isAnswered }
        remove(request)
        routeInFront(parts, followedBy: request.rest)
    }

    /// Routes `parts` in front of what is queued, in their order; `rest` follows the last of them in its call.
    func routeInFront(_ parts: [Part], followedBy rest: Part?) {
        guard let last = parts.last else {
            if let rest { route(rest, atFront: true) }
            return
        }
        // a beginning and its rest are neighbours in the call's order: they become one again
        let end = rest?.slots.upperBound ?? last.slots.upperBound
        route(Part(last.call, last.slots.lowerBound..<end), atFront: true)
        for part in parts.dropLast().reversed() { route(part, atFront: true) }
    }
}
