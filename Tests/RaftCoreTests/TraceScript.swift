@testable import RaftCore

/// A trace: prose behind `#`, commands behind `>`, and below each command what it did.
struct TraceScript {
    /// Why a script cannot be run.
    struct Flaw: Error, CustomStringConvertible {
        let line: String
        let reason: String
        var description: String { "\(reason): \(line)" }
    }

    private var cluster: TraceCluster?
    private var reads: UInt64 = 0
    private var changes: UInt64 = 0

    /// The text with every command's output as it is now.
    static func replay(_ text: String) throws -> String {
        var script = TraceScript()
        var lines: [String] = []
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
            // everything else is recorded output
            guard line.isEmpty || line.hasPrefix("#") || line.hasPrefix("> ") else { continue }
            lines.append(line)
            if line.hasPrefix("> ") { lines += try script.run(String(line.dropFirst(2))) }
        }
        return lines.joined(separator: "\n")
    }

    private mutating func run(_ line: String) throws -> [String] {
        var words = line.split(separator: " ").map(String.init)
        let isQuiet = words.first == "quietly"
        if isQuiet { words.removeFirst() }
        guard let verb = words.first else { throw Flaw(line: line, reason: "no command") }
        let arguments = Array(words.dropFirst())
        if verb == "cluster" {
            cluster = TraceCluster(try options(arguments, line))
            return []
        }
        guard cluster != nil else { throw Flaw(line: line, reason: "no cluster yet") }
        cluster!.record.hidesMessages = isQuiet || verb == "elect"
        try execute(verb, arguments, line)
        return cluster!.record.drain()
    }

    private mutating func execute(_ verb: String, _ arguments: [String], _ line: String) throws {
        switch verb {
        case "node": try setUp(arguments, line)
        case "slow": for node in try numbers(arguments, line) { cluster![node].isSlow = true }
        case "fast":
            for node in try numbers(arguments, line) {
                cluster!.sync(node)
                cluster![node].isSlow = false
            }
        case "deliver": cluster!.deliver(try filter(arguments, line))
        case "drop": cluster!.drop(try filter(arguments, line))
        case "fail": cluster!.fail(try filter(arguments, line))
        case "duplicate":
            let taken = cluster!.take(try filter(arguments, line))
            cluster!.network += taken + taken
        case "delay":
            for var packet in cluster!.take(try filter(arguments, line)) {
                packet.isDelayed = true
                cluster!.network.append(packet)
            }
        case "swap":
            let taken = cluster!.take(try filter(arguments, line))
            cluster!.network += taken.reversed()
        case "settle": cluster!.settle()
        case "network": for packet in cluster!.network { cluster!.record.state(packet.traceText) }
        case "advance": cluster!.advance(milliseconds: try number(arguments.first, line))
        case "lapse", "support": try changePromises(verb, arguments, line)
        case "partition": try partition(arguments, line)
        case "heal": cluster!.severed = []
        case "log": cluster!.describeLogs()
        case "status": cluster!.describeStatus()
        default: try executeOnNode(verb, arguments, line)
        }
    }

    /// Commands whose first argument is a node.
    private mutating func executeOnNode(_ verb: String, _ arguments: [String], _ line: String) throws {
        let node = try number(arguments.first, line)
        guard (1...cluster!.nodes.count).contains(node) else { throw Flaw(line: line, reason: "no such node") }
        let rest = Array(arguments.dropFirst())
        switch verb {
        case "campaign": cluster!.campaign(node)
        case "elect": cluster!.elect(node, with: rest.isEmpty ? [] : try numbers(Array(rest.dropFirst()), line))
        case "propose": cluster!.step(node, .proposed(count: rest.isEmpty ? 1 : try number(rest[0], line)))
        case "sync": cluster!.sync(node, count: rest.isEmpty ? .max : try number(rest[0], line))
        case "crash": for node in try numbers(arguments, line) { cluster!.crash(node) }
        case "restart": for node in try numbers(arguments, line) { cluster!.restart(node) }
        case "lose":
            cluster![node].disk.log.truncate(from: LogIndex(Int64(try number(rest.last, line))))
        case "damage": cluster![node].disk.damage(from: LogIndex(Int64(try number(rest.last, line))))
        case "disconnect": cluster!.disconnect(node, try number(rest.first, line))
        case "transfer":
            let target = rest.isEmpty ? nil : peer(UInt16(try number(rest.last, line)))
            cluster!.step(node, .transferRequested(target))
        case "step-down": cluster!.step(node, .stepDownRequested)
        case "change", "reset":
            changes += 1
            let target = try configuration(Array(rest.dropFirst()), line)
            if verb == "reset" { cluster!.judge.isLawless = true }
            cluster!.step(
                node, verb == "reset" ? .resetRequested(changes, target) : .membershipRequested(changes, target))
        case "compact":
            let through = LogIndex(Int64(try number(rest.last, line)))
            cluster![node].log.compact(through: through)
            cluster![node].disk.log.compact(through: through)
            cluster!.step(node, .compacted(through: through))
        case "fetched": cluster!.endFetch(node, succeeds: true)
        case "fetch-fails": cluster!.endFetch(node, succeeds: false)
        case "read":
            reads += 1
            cluster!.step(node, .readRequested(reads, lease: rest.first == "lease"))
        case "serve": cluster!.serveReads(node, withLease: true)
        case "lease":
            let replica = cluster![node]
            let holds = replica.raft.holdsLease(of: replica.raft.term, now: cluster!.now, liveness: replica.liveness)
            cluster!.record.state("\(node) holds \(holds ? "the lease of term \(replica.raft.term)" : "no lease")")
        default: throw Flaw(line: line, reason: "no such command")
        }
    }
}

// MARK: Arguments

extension TraceScript {
    /// `cluster 5 voters 1 2 3w learners 4 promises none promise 900 retry 500 window 4 batch 2 margin 1 catch-up 3000`
    private func options(_ arguments: [String], _ line: String) throws -> TraceCluster.Options {
        var options = TraceCluster.Options()
        options.size = try number(arguments.first, line)
        var (voters, learners): ([PeerID], [PeerID]) = ([], [])
        var key = ""
        for word in arguments.dropFirst() {
            guard word.first?.isNumber == true || word == "none" else {
                key = word
                continue
            }
            switch key {
            case "voters": voters.append(try member(word, line))
            case "learners": learners.append(try member(word, line))
            case "promises": options.promises = false
            case "retry": options.settings.retryInterval = .milliseconds(try number(word, line))
            case "promise": options.liveness.promise = .milliseconds(try number(word, line))
            case "window": options.settings.maxEntriesInFlight = try number(word, line)
            case "batch": options.settings.maxEntriesPerAppend = try number(word, line)
            case "margin": options.settings.catchUpMargin = try number(word, line)
            case "catch-up": options.settings.catchUpTimeout = .milliseconds(try number(word, line))
            default: throw Flaw(line: line, reason: "no such option")
            }
        }
        if !voters.isEmpty { options.configuration = Configuration(peers: voters, learners: learners) }
        return options
    }

    /// `node 1 log 1 1 2 term 3 voted 2 commit 1`
    private mutating func setUp(_ arguments: [String], _ line: String) throws {
        let node = try number(arguments.first, line)
        var terms: [Int64] = []
        var (term, vote, commit): (Int?, PeerID?, Int) = (nil, nil, 0)
        var key = ""
        for word in arguments.dropFirst() {
            guard let value = Int(word) else {
                key = word
                continue
            }
            switch key {
            case "log": terms.append(Int64(value))
            case "term": term = value
            case "voted": vote = peer(UInt16(value))
            case "commit": commit = value
            default: throw Flaw(line: line, reason: "no such property")
            }
        }
        let hardState = HardState(term: Term(term.map(Int64.init) ?? terms.last ?? 0), vote: vote)
        cluster!.setUp(node, terms: terms, hardState: hardState, commit: Int64(commit))
    }

    /// `1→2`, `1→`, `→2`, a kind, a count, `delayed`; in any order, each at most once.
    private func filter(_ arguments: [String], _ line: String) throws -> TraceFilter {
        var filter = TraceFilter()
        for word in arguments {
            if word.contains("→") {
                let ends = word.split(separator: "→", omittingEmptySubsequences: false)
                guard ends.count == 2 else { throw Flaw(line: line, reason: "no direction") }
                (filter.from, filter.to) = (Int(ends[0]), Int(ends[1]))
            } else if word == "delayed" {
                filter.isDelayed = true
            } else if let count = Int(word) {
                filter.count = count
            } else {
                guard Message.traceKinds.contains(word) else { throw Flaw(line: line, reason: "no such message") }
                filter.kind = word
            }
        }
        return filter
    }

    /// `lapse 2→1`: node 2 gives node 1 no promise any more; the one that stands runs out.
    private mutating func changePromises(_ verb: String, _ arguments: [String], _ line: String) throws {
        for word in arguments {
            let ends = word.split(separator: "→").compactMap { Int($0) }
            guard ends.count == 2 else { throw Flaw(line: line, reason: "no direction") }
            if verb == "lapse" { cluster!.withheld.insert(ends) } else { cluster!.withheld.remove(ends) }
        }
        if verb == "support" { cluster!.advance(milliseconds: 200) }
    }

    /// `partition 1 2 | 3`; `partition 1→2` cuts one direction.
    private mutating func partition(_ arguments: [String], _ line: String) throws {
        for word in arguments where word.contains("→") {
            cluster!.severed.insert(word.split(separator: "→").compactMap { Int($0) })
        }
        let sides = arguments.split(separator: "|")
        guard sides.count == 2 else { return }
        for left in try numbers(Array(sides[0]), line) {
            for right in try numbers(Array(sides[1]), line) {
                cluster!.severed.formUnion([[left, right], [right, left]])
            }
        }
    }

    private func configuration(_ words: [String], _ line: String) throws -> Configuration {
        Configuration(peers: try words.map { try member($0, line) })
    }

    /// `3`, a witness `3w`, a learner `3l`.
    private func member(_ word: String, _ line: String) throws -> PeerID {
        let role: PeerID.Role = word.hasSuffix("w") ? .witness : word.hasSuffix("l") ? .learner : .replica
        let digits = role == .replica ? word : String(word.dropLast())
        return PeerID(address: peer(UInt16(try number(digits, line))).address, role: role)
    }

    private func numbers(_ words: [String], _ line: String) throws -> [Int] { try words.map { try number($0, line) } }

    private func number(_ word: String?, _ line: String) throws -> Int {
        guard let word, let number = Int(word), number >= 0 else { throw Flaw(line: line, reason: "no number") }
        return number
    }
}
