import Glibc
import RaftCore
import RaftHost
import ShardServer
import Transport

/// What a node tells of itself in Prometheus' text format (version 0.0.4): totals of the node, histograms of the stages
/// of its work, and the groups that did most. However many groups there are, the page has a few hundred lines.
///
/// Lane-confined. The page is made anew after ``pace`` at the earliest, for that walks over all replicas: whoever asks often
/// gets the same.
final class MetricsPage {
    /// Groups shown.
    static let groupsMax = 20
    private static let pace = Interval.milliseconds(900)

    private let host: RaftHost
    private let server: ShardServer
    private let network: UVNetwork
    private let version: String
    private let clock: any NodeClock
    private let startedAt: Int64
    private var made: (text: String, at: Instant)?

    init(host: RaftHost, server: ShardServer, network: UVNetwork, version: String, clock: any NodeClock) {
        self.host = host
        self.server = server
        self.network = network
        self.version = version
        self.clock = clock
        startedAt = clock.wallClockMilliseconds
    }

    var text: String {
        let now = clock.now
        if let made, now - made.at < MetricsPage.pace { return made.text }
        let text = makeText()
        made = (text, now)
        return text
    }

    private func makeText() -> String {
        var page = PrometheusText()
        page.gauge("flotilla_info", "This node; its value is always 1.")
        let identity = host.identity
        page.sample(
            1, [("address", "\(identity.address)"), ("node_id", "\(identity.nodeID)"), ("version", version)])
        addStages(to: &page)
        addTotals(to: &page)
        addNode(to: &page)
        addProcess(to: &page)
        addGroups(to: &page)
        return page.text
    }

    private func addStages(to page: inout PrometheusText) {
        let metrics = host.metrics
        page.histogram("flotilla_stage_seconds", "How long a stage of the work took.")
        page.samples(of: metrics.queue, [("stage", "queue")])
        page.samples(of: metrics.log, [("stage", "log")])
        page.samples(of: metrics.replicate, [("stage", "replicate")])
        page.samples(of: metrics.apply, [("stage", "apply")])
        page.samples(of: metrics.readMoment, [("stage", "read_moment")])
        page.samples(of: metrics.evaluate, [("stage", "evaluate")])
    }

    private func addTotals(to page: inout PrometheusText) {
        let metrics = host.metrics
        page.counter("flotilla_writes_total", "Proposals of this node that were applied.", metrics.writes)
        page.counter("flotilla_reads_total", "Linearizable reads that this node could answer.", metrics.reads)
        page.counter("flotilla_applied_entries_total", "Entries given to state machines.", metrics.appliedEntries)
        page.counter("flotilla_applied_bytes_total", "Bytes of their payloads.", metrics.appliedBytes)
        page.counter("flotilla_logged_bytes_total", "Payload bytes given to the log.", metrics.loggedBytes)
        page.counter(
            "flotilla_leaderships_gained_total", "How often a replica here came to lead.", metrics.leadershipsGained)
        page.counter(
            "flotilla_leaderships_lost_total", "How often a replica here ceased to lead.", metrics.leadershipsLost)
        page.counter("flotilla_elections_total", "Campaigns of replicas here: begun, and what came of them.")
        for (position, known) in ElectionNotes.names.enumerated() {
            page.sample(metrics.elections[position], [("event", known.name)])
        }
        page.counter("flotilla_vote_requests_total", "Requests for votes and pre-votes, and what they came to here.")
        for (position, verdict) in VoteVerdict.allCases.enumerated() {
            page.sample(metrics.verdicts[position], [("verdict", verdict.rawValue)])
        }
        page.counter("flotilla_refused_messages_total", "Messages of other nodes that broke the protocol.")
        for (refusal, count) in host.refusals.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            page.sample(count, [("reason", refusal.rawValue)])
        }
    }

    private func addNode(to page: inout PrometheusText) {
        let counts = host.replicaCounts
        page.gauge("flotilla_replicas", "Replicas on this node.", counts.all)
        page.gauge("flotilla_leaders", "Replicas here that lead.", counts.leading)
        page.gauge("flotilla_damaged_replicas", "Replicas here that do not serve.", counts.damaged)
        page.gauge(
            "flotilla_map_version", "Version of the cluster's map that this node knows.", server.map?.version ?? 0)
        page.gauge("flotilla_log_bytes", "Bytes of the log on disk.", host.logBytes)
        page.gauge("flotilla_log_space_bytes", "Bytes that the log may occupy.", host.logSpace)
        page.gauge(
            "flotilla_refuses_writes", "1 while writes are refused for want of disk space.", host.refusesWrites ? 1 : 0)
        page.gauge(
            "flotilla_stall_seconds", "How long the disk, or what is being applied, has kept this node waiting.",
            seconds: host.stall)
        page.gauge("flotilla_connections", "Connections of this node, both ways.", network.connectionCount)
        page.gauge("flotilla_peer_reachable", "1 for each node with replicas of the same groups that is heard.")
        for peer in host.peerStates { page.sample(peer.isReachable ? 1 : 0, [("peer", peer.node.description)]) }
    }

    private func addProcess(to page: inout PrometheusText) {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        let microseconds =
            (Int64(usage.ru_utime.tv_sec) + Int64(usage.ru_stime.tv_sec)) * 1_000_000 + Int64(usage.ru_utime.tv_usec)
            + Int64(usage.ru_stime.tv_usec)
        page.counter(
            "process_cpu_seconds_total", "CPU time of this process.",
            seconds: Interval(nanoseconds: microseconds * 1000))
        if let resident = residentBytes {
            page.gauge("process_resident_memory_bytes", "Memory of this process that is resident.", resident)
        }
        page.gauge(
            "process_start_time_seconds", "When this node started, since 1970.",
            seconds: Interval(nanoseconds: startedAt * 1_000_000))
    }

    /// Of the kernel's books; nil if they cannot be read.
    private var residentBytes: Int? {
        guard let file = fopen("/proc/self/statm", "r") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 128)
        guard fgets(&line, Int32(line.count), file) != nil else { return nil }
        let fields = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
            separator: " ")
        guard fields.count > 1, let pages = Int(fields[1]) else { return nil }
        return pages * sysconf(Int32(_SC_PAGESIZE))
    }

    private func addGroups(to page: inout PrometheusText) {
        page.counter(
            "flotilla_group_operations_total",
            "Entries applied and reads answered here, of the \(MetricsPage.groupsMax) groups that did most of late.")
        for group in host.busiestGroups(MetricsPage.groupsMax) {
            page.sample(
                group.operations, [("group", group.group), ("role", group.isLeader ? "leader" : "follower")])
        }
    }
}

/// Prometheus' text format: a family's head, then its samples.
struct PrometheusText {
    private(set) var text = ""
    private var family = ""

    mutating func gauge(_ name: String, _ help: String) { begin(name, help, "gauge") }
    mutating func counter(_ name: String, _ help: String) { begin(name, help, "counter") }

    // families of one sample
    mutating func gauge(_ name: String, _ help: String, _ value: some BinaryInteger) {
        gauge(name, help)
        sample(value)
    }

    mutating func gauge(_ name: String, _ help: String, seconds: Interval) {
        gauge(name, help)
        sample(seconds: seconds)
    }

    mutating func counter(_ name: String, _ help: String, _ value: some BinaryInteger) {
        counter(name, help)
        sample(value)
    }

    mutating func counter(_ name: String, _ help: String, seconds: Interval) {
        counter(name, help)
        sample(seconds: seconds)
    }

    mutating func histogram(_ name: String, _ help: String) { begin(name, help, "histogram") }

    private mutating func begin(_ name: String, _ help: String, _ type: String) {
        family = name
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    mutating func sample(_ value: some BinaryInteger, _ labels: [(String, String)] = []) {
        line("", labels, "\(value)")
    }

    mutating func sample(seconds: Interval) { line("", [], Self.seconds(seconds)) }

    /// The samples of a histogram: of each bucket with all before it, the sum and the count.
    mutating func samples(of histogram: DurationHistogram, _ labels: [(String, String)]) {
        var below: UInt64 = 0
        for (position, count) in histogram.counts.enumerated() {
            below += count
            let isBounded = position < DurationHistogram.bucketCount
            let bound = isBounded ? Self.seconds(DurationHistogram.bound(of: position)) : "+Inf"
            line("_bucket", labels + [("le", bound)], "\(below)")
        }
        line("_sum", labels, Self.seconds(Interval(nanoseconds: Int64(clamping: histogram.nanoseconds))))
        line("_count", labels, "\(below)")
    }

    private mutating func line(_ suffix: String, _ labels: [(String, String)], _ value: String) {
        text += family + suffix
        if !labels.isEmpty {
            text += "{" + labels.map { "\($0.0)=\"\(Self.escaped($0.1))\"" }.joined(separator: ",") + "}"
        }
        text += " \(value)\n"
    }

    /// A decimal number; all nine places that nanoseconds have, without the zeros at the end.
    private static func seconds(_ interval: Interval) -> String {
        let (whole, rest) = interval.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        guard rest != 0 else { return "\(whole)" }
        let digits = String(rest)
        let places = String(repeating: "0", count: 9 - digits.count) + digits
        return "\(whole)." + String(places.reversed().drop { $0 == "0" }.reversed())
    }

    private static func escaped(_ value: String) -> String {
        var text = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": text += "\\\\"
            case "\"": text += "\\\""
            case "\n": text += "\\n"
            default: text.unicodeScalars.append(character)
            }
        }
        return text
    }
}
