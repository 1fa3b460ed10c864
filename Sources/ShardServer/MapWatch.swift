import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// Whoever wants to follow the map asks for a newer one than it knows and waits for the answer. So does every node but
// the controller's leader: a change reaches all of them within a round trip. Followers of the controller's leader ask
// too, for one that was removed from the group, or is cut off in it, would never hear of that in its log.

/// Those who wait at this node for a newer map.
struct MapWatch {
    struct Waiting {
        var knownVersion: UInt64
        var until: Instant
        var responder: RpcResponder
    }

    /// Who comes when so many wait is answered at once.
    static let waitingMax = 4096
    /// Whoever wants to wait longer is answered after this.
    static let waitMax = Interval.milliseconds(60_000)

    var waiting: [Waiting] = []
    /// When the first of them has waited long enough, at the earliest.
    var nextEnd = Instant.distantFuture
}

/// How this node follows the map.
struct MapPolling {
    var next: Instant
    var isUnderWay = false
    /// Which node is asked next; nodes begin with different ones.
    var turns: Int
    /// Questions in a row that came to nothing.
    var failures = 0
}

extension ShardServer {
    // MARK: answering

    func answerGetMap(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (known: UInt64, wait: Interval)? in
            arena.unpack(flotilla__get_map_request__init, request.body).map {
                ($0.pointee.known_version, .milliseconds(Int($0.pointee.wait_ms)))
            }
        }
        guard let (known, wait) = parsed else { return request.responder.fail(RpcCode.badRequest, "malformed request") }
        guard let map, map.version <= known, wait > .milliseconds(0), !isBehindTheMap,
            mapWatch.waiting.count < MapWatch.waitingMax
        else {
            return request.responder.reply(body: packedMapReply(known))
        }
        let until = lane.clock.now + min(wait, MapWatch.waitMax)
        mapWatch.waiting.append(MapWatch.Waiting(knownVersion: known, until: until, responder: request.responder))
        mapWatch.nextEnd = min(mapWatch.nextEnd, until)
        lane.requestTurn()
    }

    private func packedMapReply(_ known: UInt64) -> Bytes {
        arena.scope { arena in
            let reply = arena.make(flotilla__get_map_reply__init)
            if let map {
                reply.pointee.error = 0
                if map.version > known { reply.pointee.map = map.encoded(arena) }
            } else {
                let error = belongsToCluster ? NamedError.noLeader : .notInitialized
                reply.pointee.error = error.rawValue
                reply.pointee.message = arena.string(
                    belongsToCluster ? "the node does not know its cluster's map yet" : error.sentence)
            }
            return arena.pack(reply)
        }
    }

    /// Answers those for whom the map is news.
    func tellMapWatchers() {
        guard let map, !mapWatch.waiting.isEmpty else { return }
        let told = mapWatch.waiting.filter { $0.knownVersion < map.version }
        guard !told.isEmpty else { return }
        mapWatch.waiting.removeAll { $0.knownVersion < map.version }
        // packed once for all
        let body = packedMapReply(0)
        for waiting in told { waiting.responder.reply(body: body) }
    }

    /// Whether the map calls this node a member of the controller, and it is none any more, or not yet. Nobody waits
    /// here then: members that are removed together would wait for each other.
    private var isBehindTheMap: Bool {
        !host.holds(ClusterMap.controllerGroup) && controllerNodes.contains(address)
    }

    /// Called once a turn: answers those who have waited long enough, or all while the node stops or is behind; returns
    /// when it is to be called next at the latest.
    func mapWatchTurn(_ now: Instant) -> Instant? {
        guard !mapWatch.waiting.isEmpty else { return nil }
        let endsAll = isStopping || isBehindTheMap
        if endsAll || mapWatch.nextEnd <= now {
            let over = mapWatch.waiting.filter { endsAll || $0.until <= now }
            mapWatch.waiting.removeAll { endsAll || $0.until <= now }
            mapWatch.nextEnd = mapWatch.waiting.map(\.until).min() ?? .distantFuture
            for waiting in over { waiting.responder.reply(body: packedMapReply(waiting.knownVersion)) }
        }
        return mapWatch.waiting.isEmpty ? nil : mapWatch.nextEnd
    }

    // MARK: asking

    /// Called once a turn; returns when it is to be called next at the latest.
    func pollMap(_ now: Instant) -> Instant? {
        guard belongsToCluster, !mapPolling.isUnderWay, !host.leads(ClusterMap.controllerGroup) else { return nil }
        guard now >= mapPolling.next else { return mapPolling.next }
        mapPolling.next = now + settings.mapPace
        let nodes = nodesWithMap
        guard !nodes.isEmpty else { return mapPolling.next }
        mapPolling.isUnderWay = true
        let body = arena.scope { arena in
            let message = arena.make(flotilla__get_map_request__init)
            message.pointee.has_known_version = 1
            message.pointee.known_version = map?.version ?? 0
            message.pointee.has_wait_ms = 1
            message.pointee.wait_ms = UInt32(settings.mapWait.milliseconds)
            return arena.pack(message)
        }
        // in turn: none is passed over for long by chance
        channel(to: nodes[mapPolling.turns % nodes.count]).call(
            service: Services.cluster, method: "get_map", body: body, attachment: [],
            deadline: now + settings.mapWait + .milliseconds(2000)
        ) { [self] result in
            mapPolling.isUnderWay = false
            takePolledMap(result)
            // whatever came of it, the next one is due some time, and nothing else may wake this lane
            lane.requestTurn()
        }
        return mapPolling.next
    }

    private func takePolledMap(_ result: RpcResult) {
        guard case .reply(let reply) = result else {
            mapPolling.turns += 1
            mapPolling.failures += 1
            return
        }
        mapPolling.failures = 0
        let before = map?.version ?? 0
        adoptMap(
            arena.scope { arena in
                arena.unpack(flotilla__get_map_reply__init, reply.body)?.pointee.map.flatMap { ClusterMap($0.pointee) }
            })
        // whoever had news will have the next ones too
        if map?.version ?? 0 > before { mapPolling.next = lane.clock.now } else { mapPolling.turns += 1 }
    }

    /// Nodes to be asked for the map: the members of the controller group, and the seeds as long as none is known or
    /// all of them fail.
    private var nodesWithMap: [NodeAddress] {
        let members = controllerNodes.filter { $0 != address }
        guard members.isEmpty || mapPolling.failures >= members.count else { return members }
        return members + settings.controllers.filter { $0 != address && !members.contains($0) }
    }

    /// The nodes of the controller group's members, as the map has them.
    var controllerNodes: [NodeAddress] {
        let group = map?.group(ClusterMap.controllerGroup)
        return ((group?.peers ?? []) + (group?.joining ?? [])).map(\.address)
    }
}
