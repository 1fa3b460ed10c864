import RaftCore
import ShardMap

// What the scheduler does by itself, and what it answers to whoever wants to take a node away.

extension Command {
    static let rebalance = Command(
        path: ["rebalance"], arguments: "[on|off|status]", positionals: 0...1,
        options: [
            CommandOption("once", nil, "spread everything, then switch off; wait for that"),
            CommandOption("no-wait", nil, "with --once: return as soon as the controller has recorded it"),
            CommandOption("plan", nil, "with --once: show what would be decided at first; change nothing"),
        ],
        summary: "whether the cluster is kept spread, what was decided of late and why",
        details: """
            While it is on, replicas and leaderships are spread over the nodes and over their zones, shards that are too
            large or too hot are split, and shards move to groups that have less to do. Whatever was changed rests for
            some minutes, so --once takes that long. Draining nodes and those that are silent for long are emptied even
            while it is off. The controller remembers the setting; raftctl operation list shows what is under way.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let word = invocation.positionals.first
            if invocation.isSet("once") {
                guard word == nil else { throw .usage("--once stands alone") }
                return try await cluster.rebalanceOnce(invocation)
            }
            guard !invocation.isSet("plan") else { throw .usage("--plan goes with --once") }
            switch word {
            case "on": try await cluster.setRebalancing(.on, invocation)
            case "off": try await cluster.setRebalancing(.off, invocation)
            case nil, "status":
                let report = try await cluster.schedule()
                try Output.print(invocation.format == .json ? report.json.text : report.text)
            case .some(let word): throw .usage("'\(word)' is none of on, off and status")
            }
        })

    static let nodeDrain = Command(
        path: ["node", "drain"], arguments: "NODE", positionals: 1...1,
        options: CommandOption.operation,
        summary: "move everything away from a node; wait until nothing is left on it",
        details: """
            NODE is a node's number or its address. It gives its leaderships and replicas to other nodes and gets no new
            ones until raftctl node resume; once it is empty it can be stopped, and raftctl node remove forgets it. Ctrl-C
            leaves the drain going on.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let node = try await cluster.node(invocation.positionals[0])
            let drain = ControllerCommand.node(NodeChange(node: node.id, isDraining: true), expectedVersion: nil)
            guard try await cluster.carryOut(drain, "node \(node.id), drain", invocation) != nil else { return }
            guard !invocation.isSet("no-wait") else {
                let json = JSON.object([("node", .unsigned(node.id)), ("drained", .bool(false))])
                return try Output.print(
                    invocation.format == .json ? json.text : "node \(node.id) is being drained")
            }
            try await cluster.followDrain(of: node.id, invocation)
        })

    static let nodeSafeToStop = Command(
        path: ["node", "safe-to-stop"], arguments: "NODE", positionals: 1...1,
        summary: "whether nothing is lost if a node stops now; else why not, and exit status 1",
        details: """
            NODE is a node's number or its address. It is safe if every group keeps a majority of voters that are up and
            have its log, one of them able to lead. The nodes are asked at once: in a minute it may be otherwise.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let node = try await cluster.node(invocation.positionals[0])
            let report = try await cluster.schedule(ScheduleQuestion(isFresh: true, node: node.id))
            let isSafe = report.notToStop.isEmpty
            if invocation.format == .json {
                let json = JSON.object([
                    ("node", .unsigned(node.id)), ("safe", .bool(isSafe)),
                    ("reasons", .array(report.notToStop.map { .string($0) })),
                ])
                try Output.print(json.text)
            } else {
                try Output.print(
                    isSafe ? "node \(node.id) can be stopped" : report.notToStop.joined(separator: "\n"))
            }
            guard isSafe else { throw .failed("node \(node.id) should not be stopped now") }
        })
}

extension Cluster {
    fileprivate func setRebalancing(_ rebalancing: Rebalancing, _ invocation: Invocation) async throws(Failure) {
        _ = try await operate(.rebalance(rebalancing), "rebalancing")
        let json = JSON.object([("rebalancing", .string("\(rebalancing)"))])
        try Output.print(invocation.format == .json ? json.text : "rebalancing is \(rebalancing)")
    }

    /// Waits until the scheduler has found nothing more to do, showing what it decides meanwhile.
    fileprivate func rebalanceOnce(_ invocation: Invocation) async throws(Failure) {
        // what was decided before is no news
        var seen = try await schedule().decisions
        guard try await carryOut(.rebalance(.once), "rebalancing once", invocation) != nil else { return }
        guard !invocation.isSet("no-wait") else {
            let json = JSON.object([("rebalancing", .string("once"))])
            return try Output.print(
                invocation.format == .json ? json.text : "rebalancing once; see raftctl rebalance")
        }
        var count = 0
        while true {
            let report = try await schedule()
            for decision in report.decisions where !seen.contains(where: { $0.isSame(as: decision) }) {
                count += 1
                if invocation.format == .table { Output.complain(decision.line) }
            }
            seen = report.decisions
            switch report.rebalancing {
            case .once: await pause(milliseconds: 500)
            case .on: throw .failed("rebalancing was switched on meanwhile, which has no end; see raftctl rebalance")
            case .off:
                let json = JSON.object([("rebalancing", .string("off")), ("decisions", .integer(Int64(count)))])
                return try Output.print(
                    invocation.format == .json
                        ? json.text : "everything is spread: \(count) \(count == 1 ? "decision" : "decisions")")
            }
        }
    }

    /// Waits until nothing is left on a node, showing what is.
    fileprivate func followDrain(of node: UInt64, _ invocation: Invocation) async throws(Failure) {
        Interruption.explain(
            "the drain goes on: raftctl node drain \(node) picks it up, raftctl node resume \(node) ends it")
        var shown: String?
        var shownAt = ContinuousClock.now
        while true {
            let report = try await schedule(ScheduleQuestion(node: node))
            guard let drain = report.drain else { throw .failed("the controller does not know node \(node) any more") }
            if drain.isDone {
                let json = JSON.object([("node", .unsigned(node)), ("drained", .bool(true))])
                return try Output.print(
                    invocation.format == .json
                        ? json.text : "node \(node) is empty; raftctl node remove \(node) forgets it")
            }
            let line = report.progress(of: node, drain)
            let now = ContinuousClock.now
            if invocation.format == .table, line != shown, shown == nil || shownAt.duration(to: now) >= .seconds(2) {
                Output.complain(line)
                (shown, shownAt) = (line, now)
            }
            await pause(milliseconds: 300)
            guard try await newestMap().nodes.contains(where: { $0.id == node && $0.isDraining }) else {
                throw .failed("the drain of node \(node) was ended by raftctl node resume")
            }
        }
    }

    /// The key at which `shard` is best cut.
    func splitKey(of shard: UInt64, besides positionals: [String]) async throws(Failure) -> Bytes {
        guard positionals.isEmpty else { throw .usage("KEY and --shard exclude each other") }
        guard let range = try await newestMap().shards.first(where: { $0.id == shard })?.range else {
            throw .failed("there is no shard \(shard); raftctl shard list shows them")
        }
        let report = try await schedule(ScheduleQuestion(isFresh: true, shard: shard))
        guard let key = report.shards.first?.splitKey, range.contains(key), key != range.start else {
            throw .failed(
                "no key is known that would cut shard \(shard) in halves: it is new here, nearly empty, or one key has "
                    + "all the load; try again in some seconds, or name a key: raftctl shard split KEY")
        }
        return key
    }

    /// The shards with their load, the busiest first.
    func printHotShards(_ invocation: Invocation) async throws(Failure) {
        let report = try await schedule(ScheduleQuestion(isFresh: true, shards: 10_000))
        let shards = try await newestMap().shards
        let hot = report.shards.compactMap { load in
            shards.first { $0.id == load.shard }.map { (shard: $0, load: load) }
        }
        if invocation.format == .json {
            let json = JSON.object([("shards", .array(hot.map { $0.shard.json(with: $0.load) }))])
            return try Output.print(json.text)
        }
        var table = Table(["SHARD", "GROUP", "OPS/S", "BYTES", "FROM", "TO"], numeric: [0, 2, 3])
        for (shard, load) in hot {
            let words = shard.words
            table.add([
                String(shard.id), shard.group, Quantity.oneDecimal(load.operationsPerSecond),
                Quantity.bytes(load.bytes), words.start, words.end,
            ])
        }
        try Output.print(table.text)
    }
}

// MARK: how it is shown

extension ScheduleReport {
    /// Mode, decisions and what is blocked, for people.
    var text: String {
        var lines = ["rebalancing is \(rebalancing)"]
        if rebalancing != .off, restMilliseconds > 0 {
            lines[0] +=
                "; the controller has a new leader, which spreads nothing for another "
                + Quantity.duration(milliseconds: restMilliseconds)
        }
        if !decisions.isEmpty { lines += ["", "Decisions, the newest first:"] + decisions.reversed().map(\.line) }
        if !blocked.isEmpty { lines += ["", "Blocked:"] + blocked.map(\.reason) }
        return lines.joined(separator: "\n")
    }

    var json: JSON {
        .object([
            ("rebalancing", .string("\(rebalancing)")), ("rests_ms", .unsigned(restMilliseconds)),
            ("decisions", .array(decisions.map(\.json))),
            (
                "blocked",
                .array(
                    blocked.map {
                        .object([
                            ("node", .unsigned($0.node)), ("group", .string($0.group)), ("reason", .string($0.reason)),
                        ])
                    })
            ),
        ])
    }

    /// How far a drain is, on one line.
    func progress(of node: UInt64, _ drain: Drain) -> String {
        func count(_ number: Int, _ one: String, _ many: String) -> String { "\(number) \(number == 1 ? one : many)" }
        var line =
            "node \(node): \(count(drain.replicas.count, "replica", "replicas")) left, "
            + "\(count(drain.leaderships.count, "leadership", "leaderships")), "
            + "\(count(drain.operations.count, "operation", "operations")) under way"
        if let blocked = blocked.first(where: { $0.node == node }) { line += "; blocked: \(blocked.reason)" }
        return line
    }
}

extension ScheduleReport.Decision {
    /// Whether both are the same one, whatever has come of it meanwhile.
    func isSame(as other: ScheduleReport.Decision) -> Bool {
        at == other.at && what == other.what && reason == other.reason
    }

    var line: String {
        let outcome = problem.map { "; it failed: \($0)" } ?? operation.map { "; operation \($0)" } ?? ""
        return "\(Quantity.time(milliseconds: at))  \(what) (\(reason))\(outcome)"
    }

    var json: JSON {
        .object([
            ("at_ms", .integer(at)), ("what", .string(what)), ("reason", .string(reason)),
            ("operation", operation.map { .unsigned($0) } ?? .null), ("problem", .optional(problem)),
        ])
    }
}

extension Shard {
    fileprivate func json(with load: ScheduleReport.ShardLoad) -> JSON {
        guard case .object(let members) = json else { return json }
        return .object(
            members + [
                ("operations_per_second", .unsigned(UInt64(load.operationsPerSecond.rounded()))),
                ("bytes", .unsigned(load.bytes)),
            ] + (load.splitKey.map { JSON.members("split_key", $0) } ?? []))
    }
}
