internal import RaftCore
internal import ShardMap

// Which shard a part goes to, and what a changed map means for what has a route already.

extension Router {
    /// Queues `part` at the shard that owns its keys; in several parts if several do.
    func route(_ part: Part, atFront: Bool = false) {
        guard let map, let home = map.shardPosition(owning: part.firstKey) else { return park(part) }
        if part.lies(in: map.shards[home].range) {
            channels[home].enqueue(part, atFront: atFront)
            touch(channels[home])
        } else {
            scatter(part, over: map, atFront: atFront)
        }
    }

    /// Groups `part`'s run of the call's order by shard, keeping the order inside each.
    private func scatter(_ part: Part, over map: ClusterMap, atFront: Bool) {
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
            channels[element.home].enqueue(Part(call, start..<slot + 1), atFront: atFront)
            touch(channels[element.home])
            start = slot + 1
        }
    }

    private func park(_ part: Part) {
        unrouted.append(part)
        refresh.isWanted = true
    }

    /// Takes `newer` for the map: channels follow their shards, what is queued is routed again where its shard changed.
    /// Requests under way find out when they are sent the next time.
    func adopt(_ newer: ClusterMap) {
        map = newer
        refresh.learn(newer)
        var routes: [String: GroupRoute] = [:]
        for group in newer.groups {
            let route = groups[group.id] ?? GroupRoute(group)
            route.update(group)
            routes[group.id] = route
        }
        groups = routes

        var displaced: [Part] = []
        let former = channels
        var byID: [UInt64: ShardChannel] = [:]
        channels = newer.shards.map { shard in
            let channel = channelsByID[shard.id] ?? ShardChannel(shard)
            if channel.shard != shard { displaced += channel.change(to: shard) }
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
    }

    /// Finds a place for a request whose shard has changed. As long as it cannot have been executed its parts are
    /// simply routed again; otherwise it has to stay whole, and there must be one shard for all its keys.
    func rehome(_ request: Request) {
        let channel = request.channel
        request.command = nil
        if request.kind == .open {
            guard !channel.isRetired else { return remove(request) }
            request.layout = channel.layout
            return
        }
        if !channel.isRetired && request.parts.allSatisfy({ $0.lies(in: channel.shard.range) }) {
            request.layout = channel.layout
            return
        }
        guard request.mayHaveExecuted else { return dissolve(request) }
        guard let map, let home = map.shardPosition(owning: request.parts[0].firstKey),
            request.parts.allSatisfy({ $0.lies(in: map.shards[home].range) })
        else {
            return fail(request, .outcomeUnknown, "the shard was divided while the answer was awaited")
        }
        channel.requests.removeAll { $0 === request }
        request.channel = channels[home]
        request.layout = channels[home].layout
        channels[home].requests.append(request)
        touch(channels[home])
    }

    /// Routes the parts of a request that was certainly not executed again, in front of what is queued.
    private func dissolve(_ request: Request) {
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
