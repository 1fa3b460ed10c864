import RaftCore
import ShardMap

// Operations: what changes shards, groups and members, and how they are followed.

extension CommandOption {
    static let noWait = CommandOption("no-wait", nil, "return as soon as the controller has recorded it")
    static let plan = CommandOption("plan", nil, "show what would be done, and a token for it; change nothing")
    static let token = CommandOption("token", "TOKEN", "do exactly what was planned, or nothing")

    /// Of every command that begins an operation.
    static let operation = [plan, token, noWait]
}

extension Command {
    static let operationList = Command(
        path: ["operation", "list"],
        options: [CommandOption("all", nil, "also those that have ended, as far as they are remembered")],
        summary: "the operations under way",
        run: { invocation throws(Failure) in
            let reports = try await Cluster(invocation).operations(withEnded: invocation.isSet("all"))
            let json = JSON.object([("operations", .array(reports.map(\.json)))])
            try Output.print(invocation.format == .json ? json.text : OperationReport.table(reports))
        })

    static let operationShow = Command(
        path: ["operation", "show"], arguments: "ID", positionals: 1...1, summary: "one operation",
        run: { invocation throws(Failure) in
            let report = try await Cluster(invocation).report(try invocation.identifier(0))
            let json = JSON.object([("operations", .array([report.json]))])
            try Output.print(invocation.format == .json ? json.text : OperationReport.table([report]))
        })

    static let operationWait = Command(
        path: ["operation", "wait"], arguments: "ID", positionals: 1...1,
        summary: "wait until an operation has ended; fail if it was cancelled",
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            try await cluster.follow(try invocation.identifier(0), invocation)
        })

    static let operationCancel = Command(
        path: ["operation", "cancel"], arguments: "ID", positionals: 1...1, options: [.noWait],
        summary: "take back a move before its switch, a change of members, or a group that is not born yet",
        details: """
            A shard stays where it was, under a new epoch, and what was copied is deleted. A group gets its former members
            back. Splits and merges go on to their end: undo them by another operation.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let id = try invocation.identifier(0)
            _ = try await cluster.operate(
                .step(operation: id, to: .aborted, reason: "cancelled by an operator", wallClock: 0), "the cancellation"
            )
            guard !invocation.isSet("no-wait") else { return try Output.print("operation \(id) is being cancelled") }
            let end = try await cluster.end(of: id, showsProgress: invocation.format == .table)
            try Output.print(invocation.format == .json ? end.json.text : "operation \(id): \(end.operation.state)")
        })

    // MARK: shards

    static let shardShow = Command(
        path: ["shard", "show"], arguments: "SHARD", positionals: 1...1,
        summary: "one shard: range, group, epoch, and what is done to it",
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let id = try invocation.identifier(0)
            guard let shard = try await cluster.newestMap().shards.first(where: { $0.id == id }) else {
                throw .failed("there is no shard \(id); raftctl shard list shows them")
            }
            let reports = try await cluster.operations().filter { $0.operation.kind.shards.contains(id) }
            let json = JSON.object([
                ("shards", .array([shard.json])), ("operations", .array(reports.map(\.json))),
            ])
            guard invocation.format == .table else { return try Output.print(json.text) }
            try Output.print(Shard.table([shard]))
            if !reports.isEmpty { try Output.print("\n" + OperationReport.table(reports)) }
        })

    static let shardSplit = Command(
        path: ["shard", "split"], arguments: "[KEY]", positionals: 0...1,
        options: [
            CommandOption("shard", "SHARD", "instead of KEY: this one, where its halves have about as much to do"),
            .escaped,
        ] + CommandOption.operation,
        summary: "cut the shard that owns KEY in two; KEY becomes the first key of the new one",
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let key =
                if let id = try invocation.integer("shard", in: 1...Int.max) {
                    try await cluster.splitKey(of: UInt64(id), besides: invocation.positionals)
                } else if invocation.positionals.isEmpty {
                    throw Failure.usage("KEY or --shard SHARD is missing")
                } else {
                    try invocation.key(0)
                }
            guard let shard = try await cluster.newestMap().shard(owning: key) else {
                throw .failed("no shard owns the key; the cluster is not formed completely, see raftctl status")
            }
            let split = SplitOperation(shard: shard.id, epoch: 0, key: key, newShard: 0, group: "")
            try await cluster.begin(.split(split), "the split", invocation)
        })

    static let shardMerge = Command(
        path: ["shard", "merge"], arguments: "SHARD SHARD", positionals: 2...2, options: CommandOption.operation,
        summary: "unite two neighbouring shards of one group; the left one's number stays",
        run: { invocation throws(Failure) in
            let (first, second) = (try invocation.identifier(0), try invocation.identifier(1))
            let cluster = try Cluster(invocation)
            let map = try await cluster.newestMap()
            // whichever is named first; what is wrong with them the controller says
            let isReversed =
                map.shards.firstIndex { $0.id == first } ?? 0 > map.shards.firstIndex { $0.id == second } ?? .max
            let (left, right) = isReversed ? (second, first) : (first, second)
            let merge = MergeOperation(left: left, leftEpoch: 0, right: right, rightEpoch: 0, group: "")
            try await cluster.begin(.merge(merge), "the merge", invocation)
        })

    static let shardMove = Command(
        path: ["shard", "move"], arguments: "SHARD", positionals: 1...1,
        options: [CommandOption("to", "GROUP", "the shard's new group")] + CommandOption.operation,
        summary: "give a shard to another group, while it is read and written",
        details: """
            The data is copied while writes go on, then the shard stands still for as long as the last changes take.
            Ctrl-C leaves the move going on; raftctl operation wait picks it up again, raftctl operation cancel takes it
            back.
            """,
        run: { invocation throws(Failure) in
            let id = try invocation.identifier(0)
            guard let group = invocation.values["to"] else { throw .usage("--to GROUP is missing") }
            let move = MoveOperation(shard: id, epoch: 0, source: "", destination: group)
            try await Cluster(invocation).begin(.move(move), "the move", invocation)
        })
}

extension Invocation {
    /// The positional argument that is the number of a shard or an operation.
    func identifier(_ position: Int) throws(Failure) -> UInt64 {
        guard let number = UInt64(positionals[position]), number > 0 else {
            throw .usage("'\(positionals[position])' is not a number")
        }
        return number
    }
}

// MARK: following

extension Cluster {
    /// Has the controller begin an operation, and waits for its end unless the caller does not want that; or shows what
    /// it would do.
    func begin(_ kind: ClusterOperation.Kind, _ action: String, _ invocation: Invocation) async throws(Failure) {
        guard let answer = try await carryOut(.begin(kind, expectedVersion: nil, wallClock: 0), action, invocation)
        else { return }
        guard let operation = answer.operation else {
            throw Failure(.internalError, "the controller named no operation", while: action)
        }
        guard !invocation.isSet("no-wait") else {
            let report = OperationReport(operation: operation)
            return try Output.print(
                invocation.format == .json ? report.json.text : "operation \(operation.id) has begun")
        }
        try await follow(operation.id, invocation)
    }

    /// Has the controller apply `command`; nil if its plan was wanted instead, and is printed.
    func carryOut(
        _ command: ControllerCommand, _ action: String, _ invocation: Invocation
    ) async throws(Failure) -> OperateAnswer? {
        guard invocation.isSet("plan") else {
            return try await operate(command, token: invocation.values["token"], action)
        }
        guard !invocation.isSet("token") else { throw .usage("--plan makes a token, --token uses one") }
        var plan = try await plan(command, action)
        if plan.title.isEmpty { plan.title = action }
        try plan.print(invocation.format)
        return nil
    }

    /// Waits for the end of an operation and prints it.
    func follow(_ id: UInt64, _ invocation: Invocation) async throws(Failure) {
        let report = try await end(of: id, showsProgress: invocation.format == .table)
        let operation = report.operation
        try Output.print(
            invocation.format == .json
                ? report.json.text : "operation \(id): \(operation.kind): \(operation.state)")
        if operation.state == .cancelled {
            throw .failed("operation \(id) was cancelled: \(operation.reason ?? "no reason was given")")
        }
    }

    /// What is known of one operation.
    func report(_ id: UInt64) async throws(Failure) -> OperationReport {
        guard let report = try await operations(id: id).first else {
            throw .failed("there is no operation \(id), or it ended long ago; raftctl operation list --all shows them")
        }
        return report
    }

    /// The operation once it has ended.
    func end(of id: UInt64, showsProgress: Bool) async throws(Failure) -> OperationReport {
        let progress = OperationProgressLine(id, isShown: showsProgress)
        Interruption.explain(
            "operation \(id) goes on: raftctl operation wait \(id) picks it up, raftctl operation cancel \(id) takes it "
                + "back where that is possible")
        defer { progress.end() }
        while true {
            let report = try await report(id)
            if report.operation.state.isOver { return report }
            progress.show(report)
            await pause(milliseconds: 50)
        }
    }
}
