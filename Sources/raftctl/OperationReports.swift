import Glibc
import RaftCore
import ShardMap

// How operations are shown.

extension OperationReport {
    static func table(_ reports: [OperationReport]) -> String {
        var table = Table(["ID", "OPERATION", "STATE", "STEP", "DONE", "LEFT", "PROBLEM"], numeric: [0, 4, 5])
        for report in reports {
            table.add([
                String(report.operation.id), "\(report.operation.kind)", "\(report.operation.state)",
                report.step ?? "-", report.bytesDone.map { Quantity.bytes($0) } ?? "-",
                report.bytesLeft.map { Quantity.bytes($0) } ?? "-",
                report.problem ?? report.operation.reason ?? "",
            ])
        }
        return table.text
    }

    var json: JSON {
        .object(
            [
                ("id", .unsigned(operation.id)), ("state", .string("\(operation.state)")),
                ("begun_ms", .integer(operation.begunMilliseconds)),
                ("ended_ms", .optional(operation.endedMilliseconds)), ("reason", .optional(operation.reason)),
            ] + operation.kind.json
                + [
                    ("step", .optional(step)), ("problem", .optional(problem)),
                    ("bytes_done", bytesDone.map { .unsigned($0) } ?? .null),
                    ("bytes_left", bytesLeft.map { .unsigned($0) } ?? .null),
                ])
    }
}

extension ClusterOperation.Kind {
    var json: [(String, JSON)] {
        func peers(_ peers: [PeerID]) -> JSON { .array(peers.map { .string($0.description) }) }
        return switch self {
        case .split(let split):
            [("kind", .string("split")), ("shard", .unsigned(split.shard)), ("new_shard", .unsigned(split.newShard))]
                + JSON.members("key", split.key) + [("group", .string(split.group))]
        case .merge(let merge):
            [
                ("kind", .string("merge")), ("shard", .unsigned(merge.left)), ("right", .unsigned(merge.right)),
                ("group", .string(merge.group)),
            ]
        case .move(let move):
            [
                ("kind", .string("move")), ("shard", .unsigned(move.shard)), ("from", .string(move.source)),
                ("to", .string(move.destination)),
            ]
        case .createGroup(let creation):
            [("kind", .string("create_group")), ("group", .string(creation.group)), ("peers", peers(creation.peers))]
        case .deleteGroup(let deletion): [("kind", .string("delete_group")), ("group", .string(deletion.group))]
        case .changePeers(let change):
            [
                ("kind", .string("change_peers")), ("group", .string(change.group)), ("from", peers(change.from)),
                ("to", peers(change.to)),
            ]
        }
    }
}

/// Shows on standard error how far an operation is: a bar where that is a terminal, otherwise a line every two seconds.
final class OperationProgressLine {
    private let id: UInt64
    private let isShown: Bool
    private let isBar = Output.isTerminal(STDERR_FILENO)
    private let start = ContinuousClock.now
    private var shownAt: ContinuousClock.Instant
    private var first: (at: ContinuousClock.Instant, bytes: UInt64)?
    private var hasBar = false

    private static let cells: UInt64 = 24

    init(_ id: UInt64, isShown: Bool) {
        self.id = id
        self.isShown = isShown
        shownAt = start
    }

    func show(_ report: OperationReport) {
        let now = ContinuousClock.now
        if let bytes = report.bytesDone, first == nil { first = (now, bytes) }
        guard isShown, shownAt.duration(to: now) >= .milliseconds(isBar ? 200 : 2000) else { return }
        shownAt = now
        let line =
            "operation \(id): \(report.step ?? "\(report.operation.state)")" + amounts(report, now)
            + (report.problem.map { ": \($0)" } ?? "")
        if isBar {
            hasBar = true
            Output.note("\r\u{1b}[K\(line)")
        } else {
            Output.complain(line)
        }
    }

    func end() { if hasBar { Output.note("\r\u{1b}[K") } }

    /// Bar, bytes, rate and remaining time, as far as they are known.
    private func amounts(_ report: OperationReport, _ now: ContinuousClock.Instant) -> String {
        guard let done = report.bytesDone, let left = report.bytesLeft, done + left > 0 else { return "" }
        var parts: [String] = []
        if isBar {
            let filled = Int(OperationProgressLine.cells * done / (done + left))
            let empty = Int(OperationProgressLine.cells) - filled
            parts.append("[\(String(repeating: "#", count: filled))\(String(repeating: "-", count: empty))]")
        }
        parts.append("\(Quantity.bytes(done)) of \(Quantity.bytes(done + left))")
        if let first, done > first.bytes {
            let rate = Double(done - first.bytes) / max(0.001, first.at.duration(to: now).inSeconds)
            parts.append("\(Quantity.bytes(UInt64(rate)))/s")
            parts.append("\(Quantity.duration(milliseconds: UInt64(Double(left) / rate * 1000))) left")
        }
        return "  " + parts.joined(separator: "  ")
    }
}
