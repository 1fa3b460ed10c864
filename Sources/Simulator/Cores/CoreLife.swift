import RaftCore

/// What a simulated cluster of cores goes through: its members, what goes wrong by itself, and what clients, operators
/// and misfortune do to it, in per mille of the moments at which somebody does something.
struct CoreLife {
    /// Something that is done to a cluster.
    enum Deed {
        case propose, readByLease, read, readAnywhere
        case partition, mend, isolateLeader, crash, crashLeader, crashOthers
        case handOver, transfer, stepDown, stepDownLeader, disconnect
        case pause, pauseLeader, stallDisk, flush, compact
        case change, changeAnyway, loseChange, retireLeader, removeLeavers
        case cutLink, damage

        /// Whether nobody wants it.
        var isMisfortune: Bool {
            switch self {
            case .partition, .mend, .isolateLeader, .crash, .crashLeader, .crashOthers, .stepDown, .stepDownLeader: true
            case .disconnect, .pause, .pauseLeader, .stallDisk, .cutLink, .damage: true
            default: false
            }
        }
    }

    var size = 3
    var roles: [PeerID.Role] = []
    var settings = RaftSettings()
    var faults = CoreCluster.Faults()
    var compactsEvery: Int?
    var pausesBeforeJudging: Int64 = 30
    var appliesLate: Int64 = 0
    var milliseconds: Int64 = 12_000
    /// Between two moments, in milliseconds.
    var between: Range<Int64> = 5..<60
    var deeds: [(deed: Deed, perMille: Int64)] = []
    var losesMajority = false
    /// Whether there is misfortune only for a part of the time.
    var comesInSpells = false

    /// The life of this kind that is drawn from `seed`.
    init(_ kind: CoreLifeKind, seed: UInt64) {
        settings.catchUpMargin = seed % 3 == 0 ? 1000 : 4
        settings.catchUpTimeout = .milliseconds(3000)
        size = seed % 2 == 0 ? 3 : 5
        switch kind {
        case .everything: makeEverything(seed)
        case .reads: makeReads()
        case .handOvers: makeHandOvers(seed)
        case .delays: makeDelays(seed)
        case .loyalty: makeLoyalty()
        case .slowDisks: makeSlowDisks()
        case .restarts: makeRestarts()
        case .changes: makeChanges(seed)
        case .snapshots: makeSnapshots()
        case .overwrites: makeOverwrites()
        case .damage: makeDamage(seed)
        }
    }

    /// A bit of everything.
    private mutating func makeEverything(_ seed: UInt64) {
        if seed % 6 == 5 { (size, roles) = (3, [.replica, .replica, .witness]) }
        if seed % 7 == 3 {
            settings.maxEntriesPerAppend = 2
            settings.maxEntriesInFlight = 3
        }
        compactsEvery = seed % 8 == 1 ? 10 : nil
        appliesLate = seed % 4 == 1 ? 300 : 0
        faults = CoreCluster.Faults(
            lost: Int64(seed % 4) * 10, doubled: 20, late: Int64(seed % 3) * 10, reordersAnswers: seed % 11 == 7)
        losesMajority = seed % 9 == 8
        milliseconds = 16_000
        comesInSpells = true
        let (crashes, changes) = (seed % 5 != 0, seed % 4 != 0)
        deeds = [
            (.propose, 260), (.readByLease, 130), (.read, 65), (.readAnywhere, 65), (.partition, 37), (.mend, 50),
            (.crash, crashes ? 25 : 0), (.crashLeader, crashes ? 12 : 0), (.pause, 25), (.pauseLeader, 12),
            (.stallDisk, 25), (.disconnect, 12), (.stepDown, 12), (.handOver, 10), (.transfer, 5), (.flush, 20),
            (.compact, 35), (.change, changes ? 20 : 0), (.removeLeavers, changes ? 10 : 0),
        ]
    }

    /// Many reads at once, of state machines that lag behind.
    private mutating func makeReads() {
        appliesLate = 700
        faults = CoreCluster.Faults(late: 50, lateness: 20..<300, delay: 5..<40)
        between = 1..<10
        deeds = [
            (.propose, 250), (.read, 250), (.readAnywhere, 300), (.readByLease, 50), (.handOver, 5),
            (.isolateLeader, 5),
            (.mend, 10), (.flush, 10),
        ]
    }

    /// Leadership changes hands all the time, and old leaders are the last to know.
    private mutating func makeHandOvers(_ seed: UInt64) {
        appliesLate = seed % 4 == 1 ? 300 : 0
        faults = CoreCluster.Faults(late: 100, lateness: 50..<800, delay: 1..<60)
        between = 2..<20
        deeds = [
            (.propose, 250), (.readByLease, 200), (.read, 200), (.handOver, 40), (.transfer, 60), (.stepDown, 5),
            (.isolateLeader, 30), (.mend, 60), (.pauseLeader, 3), (.flush, 20),
        ]
    }

    /// Messages are very late, so that those of one leadership arrive in another.
    private mutating func makeDelays(_ seed: UInt64) {
        faults = CoreCluster.Faults(
            lost: 50, doubled: 200, late: 300, lateness: 100..<4000, told: 200, reordersAnswers: seed % 3 == 0)
        deeds = [
            (.propose, 300), (.readByLease, 80), (.read, 80), (.stepDownLeader, 50), (.handOver, 40),
            (.isolateLeader, 20), (.cutLink, 30), (.mend, 25), (.pauseLeader, 10),
        ]
    }

    /// Leaders have little to say, and messages of earlier leaderships arrive, while somebody who has all entries
    /// cannot hear the present one.
    private mutating func makeLoyalty() {
        milliseconds = 60_000
        size = 3
        faults = CoreCluster.Faults(doubled: 300, late: 400, lateness: 100..<8000, told: 200, restarting: 1..<300)
        between = 20..<100
        deeds = [
            (.propose, 8), (.readByLease, 10), (.stepDownLeader, 12), (.handOver, 12), (.cutLink, 20), (.mend, 10),
            (.disconnect, 5),
        ]
    }

    /// Writes take long, and leaders change meanwhile.
    private mutating func makeSlowDisks() {
        faults = CoreCluster.Faults(lost: 20, doubled: 20, late: 50, writing: 1..<800)
        deeds = [
            (.propose, 300), (.read, 50), (.stepDownLeader, 30), (.transfer, 40), (.isolateLeader, 30), (.mend, 25),
            (.stallDisk, 40), (.crash, 20), (.flush, 30),
        ]
    }

    /// Processes come back at once.
    private mutating func makeRestarts() {
        faults = CoreCluster.Faults(lost: 10, late: 20, restarting: 1..<300)
        deeds = [
            (.propose, 300), (.readByLease, 150), (.isolateLeader, 40), (.mend, 40), (.crash, 60), (.crashOthers, 40),
            (.crashLeader, 20), (.pauseLeader, 10), (.flush, 30),
        ]
    }

    /// Members come and go without pause, and those who left stay where they are.
    private mutating func makeChanges(_ seed: UInt64) {
        faults = CoreCluster.Faults(lost: seed % 2 == 0 ? 300 : 30, doubled: 20, late: 30, restarting: 1..<300)
        deeds = [
            (.propose, 200), (.readByLease, 50), (.change, 150), (.changeAnyway, 80), (.loseChange, 20),
            (.partition, 10), (.mend, 30), (.crash, 20), (.crashLeader, 30), (.stepDownLeader, 10), (.flush, 30),
            (.compact, 30),
        ]
        guard seed % 4 == 0 else { return }
        faults.lost = 0
        deeds = [(.propose, 100), (.retireLeader, 20), (.change, 60), (.mend, 60), (.flush, 30)]
    }

    /// Logs are short and snapshots slow, so that most who come back get one, late.
    private mutating func makeSnapshots() {
        compactsEvery = 6
        faults = CoreCluster.Faults(
            lost: 30, doubled: 300, late: 200, lateness: 50..<1500, fetching: 5..<1500)
        deeds = [
            (.propose, 400), (.handOver, 30), (.transfer, 30), (.isolateLeader, 20), (.partition, 40), (.mend, 60),
            (.crash, 30), (.stallDisk, 20), (.flush, 60), (.compact, 60),
        ]
    }

    /// Leaders fall with entries that only some have, which come one by one.
    private mutating func makeOverwrites() {
        milliseconds = 30_000
        settings.maxEntriesPerAppend = 1
        settings.maxEntriesInFlight = 1
        faults = CoreCluster.Faults(delay: 20..<150, restarting: 1..<1500)
        between = 10..<100
        deeds = [(.propose, 400), (.crashLeader, 10), (.isolateLeader, 50), (.mend, 10), (.flush, 10)]
    }

    /// Disks lose entries that were acknowledged, while others have not got them yet.
    private mutating func makeDamage(_ seed: UInt64) {
        milliseconds = 20_000
        compactsEvery = seed % 8 == 1 ? 10 : nil
        appliesLate = seed % 4 == 1 ? 300 : 0
        faults = CoreCluster.Faults(
            lost: 20, doubled: 50, late: 100, lateness: 50..<1500, reordersAnswers: seed % 5 == 2, writing: 1..<100,
            restarting: 1..<500, damaged: 800)
        deeds = [
            (.propose, 350), (.readByLease, 40), (.readAnywhere, 40), (.cutLink, 40), (.isolateLeader, 15), (.mend, 40),
            (.crash, 25), (.crashLeader, 15), (.damage, 30), (.transfer, 15), (.stepDown, 10), (.flush, 15),
            (.compact, 10),
        ]
    }
}

/// Kinds of lives of a simulated cluster of cores; each gives the bugs of its kind their chance.
public enum CoreLifeKind: String, CaseIterable, Sendable {
    /// A bit of everything.
    case everything
    /// Many reads at once, of state machines that lag behind.
    case reads
    /// Leadership changes hands all the time.
    case handOvers = "hand-overs"
    /// Messages are very late.
    case delays
    /// Leaders say little, and old messages arrive.
    case loyalty
    /// Writes take long.
    case slowDisks = "slow-disks"
    /// Processes come back at once.
    case restarts
    /// Members come and go.
    case changes
    /// Logs are short and snapshots slow.
    case snapshots
    /// Leaders fall with entries that only some have.
    case overwrites
    /// Disks lose what was acknowledged.
    case damage
}
