import RaftCore

/// Something that is done to a cluster of cores, and when. Whatever it leaves to chance comes from a number of its own,
/// and so does what happens by chance until the next one: leaving some out changes little of what the others do.
public struct CoreDeed: Equatable, Sendable, CustomStringConvertible {
    /// What clients, operators and misfortune do.
    enum Kind: String, Sendable, CaseIterable {
        case propose, read, partition, mend, crash, transfer, disconnect, pause, flush, compact, change, damage
        case readByLease = "read-by-lease"
        case readAnywhere = "read-anywhere"
        case isolateLeader = "isolate-leader"
        case crashLeader = "crash-leader"
        case crashOthers = "crash-others"
        case handOver = "hand-over"
        case stepDown = "step-down"
        case stepDownLeader = "step-down-leader"
        case pauseLeader = "pause-leader"
        case stallDisk = "stall-disk"
        case changeAnyway = "change-anyway"
        case loseChange = "lose-change"
        case retireLeader = "retire-leader"
        case removeLeavers = "remove-leavers"
        case cutLink = "cut-link"
        case loseMajority = "lose-majority"

        /// Whether nobody wants it.
        var isMisfortune: Bool {
            switch self {
            case .partition, .mend, .isolateLeader, .crash, .crashLeader, .crashOthers, .stepDown, .stepDownLeader: true
            case .disconnect, .pause, .pauseLeader, .stallDisk, .cutLink, .damage: true
            default: false
            }
        }

        /// Whether nodes cannot talk to each other after it.
        var severs: Bool {
            switch self {
            case .partition, .isolateLeader, .cutLink, .loseChange, .retireLeader: true
            default: false
            }
        }
    }

    /// After so many simulated milliseconds.
    var milliseconds: Int64
    var kind: Kind
    /// To which node, counted from 0 and round; to the next one that is up.
    var node: Int
    /// What follows from it by chance.
    var chance: UInt64

    /// `MILLISECONDS:KIND:NODE:CHANCE`.
    public var description: String { "\(milliseconds):\(kind.rawValue):\(node):\(chance)" }

    init(milliseconds: Int64, kind: Kind, node: Int, chance: UInt64) {
        (self.milliseconds, self.kind, self.node, self.chance) = (milliseconds, kind, node, chance)
    }

    /// Parses ``description``.
    public init?(_ text: some StringProtocol) {
        let fields = text.split(separator: ":", omittingEmptySubsequences: false)
        guard fields.count == 4, let milliseconds = Int64(fields[0]), let kind = Kind(rawValue: String(fields[1])),
            let node = Int(fields[2]), let chance = UInt64(fields[3]), (0...3_600_000).contains(milliseconds),
            (0...1000).contains(node)
        else { return nil }
        self.init(milliseconds: milliseconds, kind: kind, node: node, chance: chance)
    }
}

/// What is done to a cluster of cores, in the order of time. Any part of a schedule is a schedule.
public struct CoreSchedule: Equatable, Sendable, CustomStringConvertible {
    /// Ascending by time; at the same time in this order.
    public private(set) var deeds: [CoreDeed]

    /// A schedule of these.
    public init(_ deeds: [CoreDeed]) {
        let order = deeds.indices.sorted { (deeds[$0].milliseconds, $0) < (deeds[$1].milliseconds, $1) }
        self.deeds = order.map { deeds[$0] }
    }

    /// Deeds joined by commas.
    public var description: String { deeds.map(\.description).joined(separator: ",") }

    /// Parses deeds separated by commas, blanks or line ends; nil if one of them is malformed.
    public init?(_ text: some StringProtocol) {
        guard let deeds = scheduleWords(text, { CoreDeed($0) }) else { return nil }
        self.init(deeds)
    }
}

/// What a simulation of cores is made of: everything in it follows from this.
public struct CorePlan: Equatable, Sendable {
    /// Rules whatever is left to chance.
    public var seed: UInt64
    /// What the cluster is made of, and what goes wrong by itself.
    public var life: CoreLifeKind
    /// What is done to it.
    public var schedule: CoreSchedule

    /// A plan drawn from `seed`, where arguments do not say otherwise.
    public init(seed: UInt64, life: CoreLifeKind? = nil, schedule: CoreSchedule? = nil) {
        let kind = life ?? CoreLifeKind.allCases[Int(seed % UInt64(CoreLifeKind.allCases.count))]
        self.seed = seed
        self.life = kind
        self.schedule = schedule ?? CoreLife(kind, seed: seed).schedule(seed: seed)
    }

    /// Arguments of `raftsim` that replay this plan.
    public var arguments: String { "--cores \(seed) --life \(life.rawValue) --schedule '\(schedule)'" }
}

extension CoreLife {
    /// What is done in this life, drawn from `seed`: every now and then somebody does something. Where misfortune is mixed
    /// with the rest it comes in spells, else there would seldom be a leader to suffer it.
    func schedule(seed: UInt64) -> CoreSchedule {
        var random = SeededRandom(seed: seed)
        // another sequence than the cluster's own
        random = SeededRandom(seed: random.next())
        var drawn: [CoreDeed] = []
        func add(_ kind: CoreDeed.Kind, at milliseconds: Int64) {
            let (node, chance) = (Int(random.number(in: 0..<14)), UInt64(random.number(in: 0..<1 << 32)))
            drawn.append(CoreDeed(milliseconds: milliseconds, kind: kind, node: node, chance: chance))
        }
        if losesMajority { add(.loseMajority, at: milliseconds / 2) }
        var now: Int64 = 0
        var isSevered = false
        while now < milliseconds {
            let isRough = !comesInSpells || now % 4000 < 1500
            if !isRough, isSevered {
                add(.mend, at: now)
                isSevered = false
            }
            if let kind = draw(&random), isRough || !kind.isMisfortune {
                add(kind, at: now)
                if kind.severs { isSevered = true }
            }
            now += random.number(in: between)
        }
        return CoreSchedule(drawn)
    }

    private func draw(_ random: inout SeededRandom) -> CoreDeed.Kind? {
        var place = random.number(in: 0..<1000)
        for (deed, perMille) in deeds {
            if place < perMille { return deed }
            place -= perMille
        }
        return nil
    }
}
