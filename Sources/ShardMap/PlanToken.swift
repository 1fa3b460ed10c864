public import RaftCore
public import WireMessages

/// Names a plan that was shown to somebody: what was planned, and the version of the map on which it was judged. Whoever
/// gives it back has exactly that carried out, or nothing.
///
/// As text: the version, sixteen hexadecimal digits of a hash of what was planned, and four of one of both, so that a
/// token that lost or changed a letter on its way is known to be none. It is no secret and proves nothing.
public struct PlanToken: Equatable, Sendable, CustomStringConvertible {
    /// Of the map.
    public let version: UInt64
    /// Of what was planned.
    public let hash: UInt64

    /// The token of what `planned` spells out, judged on this version.
    public init(version: UInt64, planned: [Bytes]) {
        var hash = RollingHash()
        for part in planned { hash.combine(part) }
        self.version = version
        self.hash = hash.value
    }

    /// The token of a command in the cluster with this id, and of the operation as it would begin, with the numbers that
    /// are fixed then. What the command expects of the map, and the proposer's clock, are not part of what is planned.
    public init(
        _ command: ControllerCommand, _ operation: ClusterOperation?, cluster: UInt64, version: UInt64, _ arena: Arena
    ) {
        let planned =
            switch command {
            case .begin(let kind, _, _): ControllerCommand.begin(kind, wallClock: 0)
            case .node(let change, _): ControllerCommand.node(change)
            case .upgrade(let level, _): ControllerCommand.upgrade(to: level)
            default: command
            }
        var parts = [Bytes("\(cluster)"), planned.encoded(arena)]
        if let operation {
            parts += [Bytes("\(operation.id)"), ControllerCommand.begin(operation.kind, wallClock: 0).encoded(arena)]
        }
        self.init(version: version, planned: parts)
    }

    /// Reads a token; nil if it is none.
    public init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 3, let version = UInt64(parts[0]), let hash = UInt64(parts[1], radix: 16) else {
            return nil
        }
        self.version = version
        self.hash = hash
        guard description == text else { return nil }
    }

    /// `41-9f3a0c5577e1d402-7a1c`.
    public var description: String {
        var check = RollingHash()
        check.combine(version)
        check.combine(hash)
        // the high digits: the low ones know nothing of what stands above them
        return "\(version)-\(PlanToken.digits(hash, 16))-\(PlanToken.digits(check.value >> 48, 4))"
    }

    private static func digits(_ number: UInt64, _ count: Int) -> String {
        let text = String(number, radix: 16)
        return String(repeating: "0", count: count - text.count) + text
    }
}
