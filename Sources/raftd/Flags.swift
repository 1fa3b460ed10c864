import Glibc
import NodeRuntime
import RaftCore
import RaftHost

/// A flag of raftd: what `--help` prints of it, and what it does.
struct Flag: Sendable {
    var name: String
    /// What it takes; empty: nothing, it is there or not.
    var value: String
    var help: String
    /// Takes the text over; false if it cannot.
    var apply: @Sendable (String, inout Options) -> Bool
}

/// Everything the command line says.
struct Options: Sendable {
    var listen = NodeAddress(ip: 0x7f00_0001, port: 8101)
    var advertise: NodeAddress?
    var dataDirectory: String?
    var controllers: [NodeAddress] = []
    var guests: [GuestGroup] = []
    var droppedGuests: [String] = []
    var zone: String?
    var logLevel = LogLevel.info
    var engine = NodeConfiguration.Engine.rocksdb
    var segmentMegabytes = 64
    var reserveMegabytes = 256
    var logSpace = 16 << 30
    var snapshotRate = 64 << 20
    var storeRate = 48 << 20
    var promiseMilliseconds = 1000
    var clockDriftPercent = 5
    var electionMilliseconds = 1000
    var leaseReads = true
    var braftLeases = true
    var requestMilliseconds = 10_000
    var connections = 10_000
    var busyMilliseconds = 1000
    var requests = 65_536
    var requestBytes = 256 << 20
    var answersCli = true
    var takesFaultOrders = false
    var splitBytes = 1 << 30
    var splitOperations = 20_000
    var cooldownSeconds = 300
    var repairSeconds = 1800

    /// Every flag, in the order of `--help`.
    static let flags: [Flag] = [
        Flag(name: "listen", value: "HOST:PORT", help: "IPv4 address to accept connections on (default 127.0.0.1:8101)")
        {
            guard let address = NodeAddress(resolved($0)) else { return false }
            $1.listen = address
            return true
        },
        Flag(
            name: "advertise", value: "IPv4:PORT",
            help: "address that other nodes use; remembered by the data directory (default: --listen)"
        ) {
            $1.advertise = NodeAddress(resolved($0))
            return $1.advertise != nil
        },
        Flag(
            name: "data-dir", value: "DIR", help: "directory of identity, log and store; created if missing (required)"
        ) {
            $1.dataDirectory = $0
            return !$0.isEmpty
        },
        Flag(
            name: "controllers", value: "HOST:PORT,…",
            help:
                "seeds to find the cluster by; the first one creates it (default: --advertise; with --guest-group none)"
        ) {
            let addresses = $0.split(separator: ",").map { NodeAddress(resolved(String($0))) }
            guard !addresses.isEmpty, addresses.allSatisfy({ $0 != nil }) else { return false }
            $1.controllers = addresses.compactMap { $0 }
            return Set($1.controllers).count == $1.controllers.count
        },
        Flag(
            name: "guest-group", value: "GROUP",
            help:
                "be a member of this group of another program; may be given again, see --peers, --guest-idx "
                + "(default: none)"
        ) {
            let group = $0
            guard (1...255).contains(group.utf8.count), group != "controller", !group.utf8.contains(where: { $0 < 32 }),
                !$1.guests.contains(where: { $0.group == group })
            else { return false }
            $1.guests.append(GuestGroup(group: group))
            return true
        },
        Flag(
            name: "peers", value: "IP:PORT[:IDX],…",
            help:
                "first members of the --guest-group before it, the same on each of them (default: none); without this node, "
                + "the replica waits until the group's leader takes it in: so always where an earlier --data-dir was lost, "
                + "and with a new --guest-idx"
        ) {
            let peers = $0.split(separator: ",", omittingEmptySubsequences: false).map { PeerID(resolved(String($0))) }
            guard !$1.guests.isEmpty, $1.guests[$1.guests.count - 1].peers.isEmpty else { return false }
            guard !$0.isEmpty else { return true }
            $1.guests[$1.guests.count - 1].peers = peers.compactMap { $0 }
            return Set(peers).count == peers.count
                && peers.allSatisfy { $0.map { $0.address.ip != 0 && $0.idx >= 0 && $0.role != .learner } ?? false }
        },
        Flag(
            name: "guest-idx", value: "IDX",
            help: "idx of this node's member of the --guest-group before it (default: as in --peers, or 0)"
        ) {
            guard !$1.guests.isEmpty, let idx = Int32($0), idx >= 0 else { return false }
            $1.guests[$1.guests.count - 1].idx = idx
            return true
        },
        Flag(
            name: "drop-guest-group", value: "GROUP",
            help:
                "delete this node's replica of the group, after the group's leader was told to do without it "
                + "(default: none)"
        ) {
            $1.droppedGuests.append($0)
            return !$0.isEmpty
        },
        Flag(
            name: "zone", value: "NAME", help: "where the node stands, as the map shows it (default: as the map has it)"
        ) {
            $1.zone = $0
            let isPart = { (scalar: Unicode.Scalar) in
                scalar == "-" || scalar == "_" || ("a"..."z").contains(scalar) || ("A"..."Z").contains(scalar)
                    || ("0"..."9").contains(scalar)
            }
            return $0.utf8.count <= 64 && $0.unicodeScalars.allSatisfy(isPart)
        },
        Flag(name: "log-level", value: "LEVEL", help: "debug, info, warning or error (default info)") {
            guard let level = LogLevel($0) else { return false }
            $1.logLevel = level
            return true
        },
        Flag(name: "engine", value: "NAME", help: "rocksdb, or memory: rebuilt from the log at start (default rocksdb)")
        {
            guard let engine = NodeConfiguration.Engine(rawValue: $0) else { return false }
            $1.engine = engine
            return true
        },
        Flag(name: "segment-mb", value: "MIB", help: "size of a log segment in MiB (default 64)") {
            number($0, 1...1024, &$1.segmentMegabytes)
        },
        Flag(
            name: "reserve-mb", value: "MIB",
            help: "free disk space in MiB below which writes are refused (default 256)"
        ) {
            number($0, 0...1 << 20, &$1.reserveMegabytes)
        },
        Flag(
            name: "log-space", value: "BYTES",
            help:
                "disk space for the log of all groups, at least four segments; it is compacted to fit (default 16 GiB)"
        ) {
            number($0, 4 << 20...1 << 50, &$1.logSpace)
        },
        Flag(
            name: "snapshot-rate", value: "BYTES_PER_SECOND",
            help: "what this node writes and sends of snapshots in all (default 64 MiB/s)"
        ) {
            number($0, 64 << 10...1 << 40, &$1.snapshotRate)
        },
        Flag(
            name: "store-rate", value: "BYTES_PER_SECOND",
            help: "what the store flushes and compacts in a second; the log's syncs wait behind it (default 48 MiB/s)"
        ) {
            number($0, 1 << 20...1 << 40, &$1.storeRate)
        },
        Flag(
            name: "liveness-promise-ms", value: "MS",
            help: "how long a node supports another one unheard; a dead leader is noticed after it (default 1000)"
        ) {
            number($0, 100...60_000, &$1.promiseMilliseconds)
        },
        Flag(
            name: "max-clock-drift", value: "PERCENT",
            help: "how much faster one node's clock may run than another's; beyond it promises are unsafe (default 5)"
        ) {
            number($0, 0...50, &$1.clockDriftPercent)
        },
        Flag(name: "election-timeout-ms", value: "MS", help: "how long a candidate waits for votes (default 1000)") {
            number($0, 100...60_000, &$1.electionMilliseconds)
        },
        Flag(
            name: "lease-reads", value: "on|off",
            help: "whether a leader that a majority stands by answers reads without asking it (default on)"
        ) {
            $1.leaseReads = $0 == "on"
            return $0 == "on" || $0 == "off"
        },
        Flag(
            name: "braft-leases", value: "on|off",
            help:
                "whether brafts beside this node run with raft_enable_leader_lease; off lets them hand leadership to each "
                + "other at the first attempt, and on where they do keeps their reads right (default on)"
        ) {
            $1.braftLeases = $0 == "on"
            return $0 == "on" || $0 == "off"
        },
        Flag(
            name: "request-timeout-ms", value: "MS",
            help: "how long a Redis command may take, retries included (default 10000)"
        ) {
            number($0, 100...600_000, &$1.requestMilliseconds)
        },
        Flag(
            name: "split-bytes", value: "BYTES",
            help: "a shard that takes more is split, while rebalancing is on (default 1 GiB)"
        ) {
            number($0, 64 << 10...1 << 50, &$1.splitBytes)
        },
        Flag(
            name: "split-operations", value: "N",
            help: "a shard with more reads and writes per second is split, while rebalancing is on (default 20000)"
        ) {
            number($0, 10...1_000_000_000, &$1.splitOperations)
        },
        Flag(
            name: "scheduler-cooldown", value: "SECONDS",
            help: "how long rebalancing leaves alone what was changed, and everything after a start (default 300)"
        ) {
            number($0, 1...86_400, &$1.cooldownSeconds)
        },
        Flag(
            name: "repair-after", value: "SECONDS",
            help: "the replicas of a node that is silent for longer are made anew elsewhere (default 1800)"
        ) {
            number($0, 10...1_000_000, &$1.repairSeconds)
        },
        Flag(
            name: "max-connections", value: "N",
            help: "connections at most; further clients are told so (default 10000)"
        ) {
            number($0, 16...1_000_000, &$1.connections)
        },
        Flag(
            name: "busy-after-ms", value: "MS",
            help:
                "how long requests may wait for their turn; while they wait longer, further ones get BUSY (default 1000)"
        ) {
            number($0, 10...600_000, &$1.busyMilliseconds)
        },
        Flag(
            name: "max-requests", value: "N",
            help: "requests of clients under way at most; further ones get BUSY (default 65536)"
        ) {
            number($0, 16...1 << 24, &$1.requests)
        },
        Flag(
            name: "max-request-bytes", value: "BYTES",
            help: "bytes of keys and values in them at most; further ones get BUSY (default 256 MiB)"
        ) {
            number($0, 1 << 20...1 << 40, &$1.requestBytes)
        },
        Flag(
            name: "no-cli", value: "",
            help: "refuse the orders of braft's command line service, as its disable_cli does (default: take them)"
        ) {
            $1.answersCli = $0 == "false"
            return $0 == "true" || $0 == "false"
        },
        Flag(
            name: "test-faults", value: "",
            help:
                "let anybody cut or slow this node's connections to others (flotilla.FaultService); for tests, and on "
                + "loopback only (default: nobody)"
        ) {
            $1.takesFaultOrders = $0 == "true"
            return $0 == "true" || $0 == "false"
        },
    ]

    static var help: String {
        var text = """
            Usage: raftd --data-dir DIR [--listen HOST:PORT] [--controllers HOST:PORT,…] [flags]

            One node of a Flotilla cluster. Start every node, then run `raftctl init` once.

            """
        for flag in flags {
            text += "\n  --\(flag.name)\(flag.value.isEmpty ? "" : " \(flag.value)")\n      \(flag.help)"
        }
        text += "\n  --flagfile FILE\n      reads flags from FILE, one --name=value per line; # begins a comment"
        text += "\n  --help, --version\n"
        return text
    }

    private static func number(_ text: String, _ range: ClosedRange<Int>, _ target: inout Int) -> Bool {
        guard let value = Int(text), range.contains(value) else { return false }
        target = value
        return true
    }

    /// `localhost` is the one name that is understood: PeerIds carry addresses.
    private static func resolved(_ text: String) -> String {
        text.hasPrefix("localhost:") ? "127.0.0.1:" + text.dropFirst("localhost:".count) : text
    }
}

/// A command line that cannot be used.
struct UsageError: Error {
    var text: String
}

extension Options {
    /// Reads `--name value` and `--name=value`, and files of the latter.
    mutating func read(_ arguments: [String], depth: Int = 0) throws(UsageError) {
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("-") else { throw UsageError(text: "unexpected argument \(argument)") }
            let body = argument.drop { $0 == "-" }
            let parts = body.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            // brpc's users know their flags with underscores
            let name = String(parts[0].map { $0 == "_" ? "-" : $0 })
            var value = parts.count > 1 ? String(parts[1]) : nil
            let isSwitch = Options.flags.contains { $0.name == name && $0.value.isEmpty }
            if value == nil { value = isSwitch ? "true" : rest.popFirst() }
            guard let value else { throw UsageError(text: "--\(name) needs a value") }
            if name == "flagfile" {
                guard depth < 8 else { throw UsageError(text: "flag files include each other") }
                try read(try Options.lines(of: value), depth: depth + 1)
                continue
            }
            guard let flag = Options.flags.first(where: { $0.name == name }) else {
                throw UsageError(text: "unknown flag --\(name)")
            }
            guard flag.apply(value, &self) else {
                throw UsageError(text: "--\(name) does not take \"\(value)\"; it is: \(flag.help)")
            }
        }
    }

    private static func lines(of path: String) throws(UsageError) -> [String] {
        guard let file = fopen(path, "r") else { throw UsageError(text: "cannot read the flag file \(path)") }
        defer { fclose(file) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { text += buffer[0..<count] }
        return String(decoding: text, as: UTF8.self).split(separator: "\n").compactMap { line in
            let trimmed = line.drop { $0 == " " || $0 == "\t" }
            return trimmed.isEmpty || trimmed.hasPrefix("#") ? nil : String(trimmed)
        }
    }

    /// What the node is started with.
    func configuration() throws(UsageError) -> NodeConfiguration {
        guard let dataDirectory else { throw UsageError(text: "--data-dir is required") }
        var configuration = NodeConfiguration(listen: listen, dataDirectory: dataDirectory, controllers: controllers)
        configuration.advertise = advertise ?? listen
        configuration.zone = zone
        guard configuration.advertise.ip != 0 else {
            throw UsageError(text: "--advertise is required when --listen is 0.0.0.0")
        }
        guard !takesFaultOrders || listen.isLoopback && configuration.advertise.isLoopback else {
            throw UsageError(
                text: "--test-faults lets anybody who reaches the node cut its connections: --listen on 127.0.0.1")
        }
        configuration.takesFaultOrders = takesFaultOrders
        guard guests.isEmpty || engine == .rocksdb else {
            throw UsageError(text: "--guest-group needs --engine rocksdb: with memory no log is compacted")
        }
        configuration.guests = guests
        configuration.droppedGuests = droppedGuests
        for group in droppedGuests where guests.contains(where: { $0.group == group }) {
            throw UsageError(text: "\(group) is to be dropped and to be a guest")
        }
        for guest in guests {
            let own = guest.peers.filter { $0.address == configuration.advertise }
            guard own.count <= 1 || guest.idx != nil else {
                throw UsageError(
                    text: "--peers of \(guest.group) has this node more than once: --guest-idx says which it is")
            }
            guard own.allSatisfy({ $0.role == .replica }) else {
                throw UsageError(text: "--peers of \(guest.group): this node can be no witness")
            }
        }
        // one that is only others' guest waits for no init
        if controllers.isEmpty, guests.isEmpty, droppedGuests.isEmpty {
            configuration.controllers = [configuration.advertise]
        }
        configuration.engine = engine
        configuration.segmentBytes = segmentMegabytes << 20
        configuration.reserveBytes = reserveMegabytes << 19
        guard logSpace >= 4 * configuration.segmentBytes else {
            throw UsageError(text: "--log-space must be at least four times --segment-mb")
        }
        configuration.logSpace = logSpace
        configuration.host.compactionBytes = min(configuration.host.compactionBytes, logSpace / 16)
        // what is written at once must fit with ease
        configuration.host.batchBytes = min(configuration.host.batchBytes, logSpace / 16)
        configuration.host.payloadBytes = min(configuration.host.payloadBytes, logSpace / 16)
        configuration.host.keptBytes = min(configuration.host.keptBytes, logSpace / 64)
        configuration.host.snapshotBytesPerSecond = snapshotRate
        configuration.storeBytesPerSecond = storeRate
        configuration.host.minimumFreeBytes = reserveMegabytes << 20
        configuration.host.liveness.promise = .milliseconds(promiseMilliseconds)
        configuration.host.liveness.interval = .milliseconds(max(20, promiseMilliseconds / 5))
        configuration.host.liveness.maxClockDriftPercent = clockDriftPercent
        configuration.host.raft.electionTimeout = .milliseconds(electionMilliseconds)
        configuration.host.raft.leaseReads = leaseReads
        configuration.host.raft.foreignLeases = braftLeases
        configuration.requestTimeout = .milliseconds(requestMilliseconds)
        configuration.connectionsMax = connections
        configuration.admission.patience = .milliseconds(busyMilliseconds)
        configuration.admission.requests = requests
        configuration.admission.bytes = requestBytes
        configuration.host.answersCli = answersCli
        configuration.scheduler.splitBytes = UInt64(splitBytes)
        configuration.scheduler.splitOperations = Double(splitOperations)
        configuration.scheduler.scale(toCooldown: .milliseconds(1000 * cooldownSeconds))
        configuration.scheduler.repairAfter = .milliseconds(1000 * repairSeconds)
        return configuration
    }
}

extension NodeAddress {
    /// Whether only this machine reaches it.
    fileprivate var isLoopback: Bool { ip >> 24 == 127 }
}
