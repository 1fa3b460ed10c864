public import RaftCore

/// What can go wrong in a simulation, by the name it has on the command line.
public enum FaultKind: String, Sendable, CaseIterable {
    /// Messages between two nodes get lost, until the connections break.
    case loss
    /// Messages between two nodes arrive twice.
    case duplicate
    /// A link is slow.
    case delay
    /// Messages between two nodes overtake each other.
    case reorder
    /// Nothing passes in one direction of a link.
    case oneway
    /// The network falls into two parts, or one link of it fails.
    case partition
    /// A process is killed; what it has written stays, even what it has not synced.
    case crash
    /// A process stands still, and goes on.
    case pause
    /// A process stands still in the middle of a turn, between reading its clock and acting on that, and goes on.
    case stall
    /// A wall clock is set, hours back or ahead.
    case clockJump = "clock-jump"
    /// A monotonic clock runs too fast or too slow, within what the settings allow.
    case drift
    /// The power fails in the middle of a write; everything not synced is lost.
    case unsyncedLost = "unsynced-lost"
    /// The power fails in the middle of a write; parts of what was not synced stay.
    case tornWrite = "torn-write"
    /// Bits of an old segment of the log turn around.
    case bitRot = "bit-rot"
    /// Reading the log fails for a while.
    case readError = "read-error"
    /// A sync fails: the node gives up and is started again.
    case fsyncError = "fsync-error"
    /// There is no room on the log's disk.
    case diskFull = "disk-full"
    /// A node's disk is slow.
    case slowDisk = "slow-disk"
    /// A node's disk answers nothing, and goes on.
    case hangingDisk = "hanging-disk"
    /// A leader of a group of keys is asked for other members; see ``MembershipDraw``.
    case churn
    /// A leader is asked to hand over, and perhaps cut off while it does.
    case transfer
    /// A node is stopped in order and started again.
    case stop
    /// An operator asks the controller for something; see ``OperatorDraw``.
    case operate
    /// An operator has the cluster kept spread or not, or a node drained for a while. In a plan with such a fault the
    /// scheduler takes seconds for what takes it minutes elsewhere, and no disk loses data for good: it would put
    /// replicas there.
    case schedule

    /// What a plan is drawn from if nobody says of what: all but those that change how the cluster is set up.
    public static let usual = allCases.filter { $0 != .schedule }
}

/// Something that goes wrong, and when. It ends by itself, so that any part of a schedule is a schedule.
public struct Fault: Equatable, Sendable, CustomStringConvertible {
    /// After how many steps of the fault phase it begins.
    public var step: Int
    /// What.
    public var kind: FaultKind
    /// To which node, from 1.
    public var node: Int
    /// The other end of the link, where it is about one.
    public var other: Int
    /// How long it lasts, in virtual milliseconds.
    public var milliseconds: Int
    /// How much, of whatever it is about.
    public var amount: Int

    /// A fault.
    public init(step: Int, kind: FaultKind, node: Int, other: Int, milliseconds: Int, amount: Int) {
        self.step = step
        self.kind = kind
        self.node = node
        self.other = other
        self.milliseconds = milliseconds
        self.amount = amount
    }

    /// `STEP:KIND:NODE:OTHER:MILLISECONDS:AMOUNT`.
    public var description: String { "\(step):\(kind.rawValue):\(node):\(other):\(milliseconds):\(amount)" }

    /// Parses ``description``.
    public init?(_ text: some StringProtocol) {
        let fields = text.split(separator: ":", omittingEmptySubsequences: false)
        guard fields.count == 6, let step = Int(fields[0]), let kind = FaultKind(rawValue: String(fields[1])),
            let node = Int(fields[2]), let other = Int(fields[3]), let milliseconds = Int(fields[4]),
            let amount = Int(fields[5]), step >= 0, node > 0, other > 0, (0...3_600_000).contains(milliseconds),
            (0...1 << 32).contains(amount)
        else { return nil }
        self.init(step: step, kind: kind, node: node, other: other, milliseconds: milliseconds, amount: amount)
    }
}

/// The faults of a run, in the order in which they begin.
public struct FaultSchedule: Equatable, Sendable, CustomStringConvertible {
    /// Ascending by step.
    public var faults: [Fault]

    /// A schedule of these.
    public init(_ faults: [Fault]) { self.faults = faults.sorted { $0.step < $1.step } }

    /// Faults joined by commas.
    public var description: String { faults.map(\.description).joined(separator: ",") }

    /// Parses faults separated by commas, blanks or line ends; nil if one of them is malformed.
    public init?(_ text: some StringProtocol) {
        guard let faults = scheduleWords(text, { Fault($0) }) else { return nil }
        self.init(faults)
    }

    /// A schedule drawn from `random`: about one fault in `stepsPerFault` steps, of these kinds.
    public static func random(
        kinds: [FaultKind], nodes: Int, replicas: Int, steps: Int, stepsPerFault: Int,
        _ random: inout SeededRandom
    ) -> FaultSchedule {
        func number(_ range: Range<Int>) -> Int {
            Int(random.number(in: Int64(range.lowerBound)..<Int64(range.upperBound)))
        }
        // neither does the scheduler know that a disk will lose data, nor of members that the map does not have
        let kinds = kinds.contains(.schedule) ? kinds.filter { $0 != .bitRot && $0 != .churn } : kinds
        guard !kinds.isEmpty, steps > 0 else { return FaultSchedule([]) }
        // a minority of every group may lose data for good
        let rotting = (0..<(replicas - 1) / 2).map { _ in number(1..<nodes + 1) }
        var faults: [Fault] = []
        for _ in 0..<number(steps / stepsPerFault / 2..<steps / stepsPerFault * 2 + 1) {
            let kind = kinds[number(0..<kinds.count)]
            var node = number(1..<nodes + 1)
            if kind == .bitRot {
                guard !rotting.isEmpty else { continue }
                node = rotting[number(0..<rotting.count)]
            }
            let other = nodes > 1 ? (node + number(0..<nodes - 1)) % nodes + 1 : node
            let long = number(0..<4) == 0
            faults.append(
                Fault(
                    step: number(0..<steps), kind: kind, node: node, other: other,
                    milliseconds: number(1..<(long ? 4000 : 800)), amount: number(0..<1 << 20)))
        }
        return FaultSchedule(faults)
    }
}

/// The items of a schedule's text, separated by commas, blanks or line ends; nil if one of them is malformed.
func scheduleWords<Item>(_ text: some StringProtocol, _ parse: (String) -> Item?) -> [Item]? {
    var items: [Item] = []
    for word in text.split(whereSeparator: { $0 == "," || $0.isWhitespace }) {
        guard let item = parse(String(word)) else { return nil }
        items.append(item)
    }
    return items
}
