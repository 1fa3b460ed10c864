import Glibc
import Simulator

/// A command line that cannot be understood.
struct UsageError: Error {
    var text: String
}

/// What the command line asks for.
struct Arguments {
    var seeds: ClosedRange<UInt64> = 0...0
    var isMany = false
    var groups: Int?
    var nodes: Int?
    var steps: Int?
    var kinds = FaultKind.usual
    var schedule: FaultSchedule?
    var coreSchedule: CoreSchedule?
    var printsTimeline = false
    /// Whether clusters of cores alone are run.
    var isOfCores = false
    /// What they go through; nil: drawn from the seed.
    var life: CoreLifeKind?

    static let help = """
        raftsim runs a whole cluster from a seed - nodes, clients, disks, clocks and network in one thread - lets it
        suffer, and judges it after every step.

        usage: raftsim SEED [OPTION...]            one seed, bit for bit as always
               raftsim --seeds A..B [OPTION...]    all seeds from A to B
               raftsim --cores ...                 the same with a cluster of cores alone, much faster

          --groups G         groups of keys, 1 to 1000 (default: drawn from the seed)
          --nodes N          nodes, 1 to 9 (default: drawn from the seed)
          --steps S          events of the phase of faults (default: \(Plan.usualSteps))
          --faults LIST      kinds of faults, separated by commas, or none (default: all but schedule)
          --schedule TEXT    exactly these faults: STEP:KIND:NODE:OTHER:MILLISECONDS:AMOUNT, separated by commas; with
                             --cores, exactly these deeds: MILLISECONDS:KIND:NODE:CHANCE
          --schedule-file F  the same from a file
          --timeline         with one seed: print what happens
          --life KIND        with --cores: what they go through (default: drawn from the seed)

        Cores take --schedule, --schedule-file, --timeline and --life.

        lives: \(CoreLifeKind.allCases.map(\.rawValue).joined(separator: " "))
        faults: \(FaultKind.allCases.map(\.rawValue).joined(separator: " "))

        A failing seed prints its timeline, the smallest schedule found that still fails, and the command that replays
        it.
        Exit status: 0 all seeds passed, 1 one failed, 2 usage.

        """

    init(_ words: [String]) throws(UsageError) {
        var rest = words[...]
        func value(of flag: String) throws(UsageError) -> String {
            guard let value = rest.popFirst() else { throw UsageError(text: "\(flag) needs a value") }
            return value
        }
        func number(of flag: String, _ range: ClosedRange<Int>) throws(UsageError) -> Int {
            let text = try value(of: flag)
            guard let number = Int(text), range.contains(number) else {
                throw UsageError(text: "\(flag) must be \(range.lowerBound) to \(range.upperBound), not \(text)")
            }
            return number
        }
        var hasSeeds = false
        var ofNodes: String?
        var scheduleText: String?
        while let word = rest.popFirst() {
            if ["--groups", "--nodes", "--steps", "--faults"].contains(word) {
                ofNodes = word
            }
            switch word {
            case "--seeds":
                seeds = try Arguments.range(try value(of: word))
                (isMany, hasSeeds) = (true, true)
            case "--cores": isOfCores = true
            case "--life": life = try Arguments.life(try value(of: word))
            case "--groups": groups = try number(of: word, 1...1000)
            case "--nodes": nodes = try number(of: word, 1...9)
            case "--steps": steps = try number(of: word, 0...1_000_000_000)
            case "--faults": kinds = try Arguments.kinds(try value(of: word))
            case "--schedule": scheduleText = try value(of: word)
            case "--schedule-file": scheduleText = try Arguments.contents(of: try value(of: word))
            case "--timeline": printsTimeline = true
            default:
                guard !word.hasPrefix("-"), let seed = UInt64(word), !hasSeeds else {
                    throw UsageError(text: "\(word) is not understood")
                }
                (seeds, hasSeeds) = (seed...seed, true)
            }
        }
        guard hasSeeds else { throw UsageError(text: "a seed is needed") }
        if isOfCores, let ofNodes { throw UsageError(text: "\(ofNodes) is not for cores alone") }
        if let scheduleText {
            if isOfCores { coreSchedule = CoreSchedule(scheduleText) } else { schedule = FaultSchedule(scheduleText) }
            if coreSchedule == nil, schedule == nil { throw UsageError(text: "the schedule is malformed") }
        }
        if life != nil, !isOfCores { throw UsageError(text: "--life is for --cores") }
    }

    /// The plan of a seed.
    func plan(_ seed: UInt64) -> Plan {
        Plan(seed: seed, groups: groups, nodes: nodes, steps: steps, kinds: kinds, schedule: schedule)
    }

    /// The plan of a seed's cores.
    func corePlan(_ seed: UInt64) -> CorePlan { CorePlan(seed: seed, life: life, schedule: coreSchedule) }

    private static func life(_ name: String) throws(UsageError) -> CoreLifeKind {
        guard let life = CoreLifeKind(rawValue: name) else { throw UsageError(text: "there is no life \(name)") }
        return life
    }

    private static func range(_ text: String) throws(UsageError) -> ClosedRange<UInt64> {
        let ends = text.split(separator: ".", omittingEmptySubsequences: false)
        guard ends.count == 3, ends[1].isEmpty, let first = UInt64(ends[0]), let last = UInt64(ends[2]), first <= last
        else { throw UsageError(text: "--seeds must be like 1..100, not \(text)") }
        return first...last
    }

    private static func kinds(_ text: String) throws(UsageError) -> [FaultKind] {
        if text == "none" { return [] }
        var kinds: [FaultKind] = []
        for name in text.split(separator: ",") {
            guard let kind = FaultKind(rawValue: String(name)) else {
                throw UsageError(text: "there is no fault \(name)")
            }
            kinds.append(kind)
        }
        return kinds
    }

    private static func contents(of path: String) throws(UsageError) -> String {
        guard let file = fopen(path, "r") else { throw UsageError(text: "\(path) cannot be opened") }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = fread(&buffer, 1, buffer.count, file)
            guard count > 0 else { break }
            bytes.append(contentsOf: buffer[..<count])
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
