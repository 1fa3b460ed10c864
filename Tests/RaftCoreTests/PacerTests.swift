import Testing

@testable import RaftCore

/// A pacer and a clock, in milliseconds.
private struct PacedCrowd {
    var pacer: Pacer
    /// Who went when, in order.
    private(set) var gone: [(waiter: Int, at: Int)] = []

    init(_ settings: Pacer.Settings = Pacer.Settings()) { pacer = Pacer(settings: settings) }

    private func instant(_ milliseconds: Int) -> Instant { Instant(nanoseconds: 7) + .milliseconds(milliseconds) }

    mutating func come(_ waiters: some Sequence<Int>, at time: Int) {
        for waiter in waiters { pacer.add(waiter, now: instant(time)) }
    }

    /// Lets go whoever may; how many.
    @discardableResult
    mutating func go(at time: Int) -> Int {
        let before = gone.count
        while let waiter = pacer.next(now: instant(time)) { gone.append((waiter, time)) }
        return gone.count - before
    }

    func isDue(at time: Int) -> Bool { pacer.deadline.map { $0 <= instant(time) } ?? false }

    /// Goes on as the deadline says, until nobody waits.
    mutating func goOn(from start: Int) {
        var time = start
        while pacer.deadline != nil, time < start + 100_000 {
            if isDue(at: time) { go(at: time) }
            time += 1
        }
    }
}

@Suite("Liveness rule 19: many replicas speak of their own accord one after another")
struct PacerTests {
    @Test("few go at once, in the order in which they came")
    func few() {
        var crowd = PacedCrowd()
        crowd.come([9, 3, 7], at: 0)
        #expect(crowd.isDue(at: 0) && crowd.go(at: 0) == 3)
        #expect(crowd.gone.map(\.waiter) == [9, 3, 7])
    }

    @Test("where nobody waits nothing is due, before and after")
    func idle() {
        var crowd = PacedCrowd()
        #expect(crowd.pacer.deadline == nil && crowd.go(at: 0) == 0)
        crowd.come(0..<1000, at: 0)
        crowd.goOn(from: 0)
        #expect(crowd.gone.count == 1000 && crowd.pacer.deadline == nil && crowd.pacer.count == 0)
    }

    @Test("nobody waits twice; whoever went may come again, behind the others")
    func once() {
        var settings = Pacer.Settings()
        (settings.fewest, settings.most) = (1, 1)
        var crowd = PacedCrowd(settings)
        crowd.come([1, 2, 1, 1], at: 0)
        #expect(crowd.pacer.count == 2)
        crowd.go(at: 0)
        crowd.come([1], at: 1)
        crowd.goOn(from: 1)
        #expect(crowd.gone.map(\.waiter) == [1, 2, 1])
    }

    @Test("a beat has one bound, however often it is asked; the next one is due when it is over")
    func beat() {
        var settings = Pacer.Settings()
        (settings.fewest, settings.most) = (4, 4)
        var crowd = PacedCrowd(settings)
        crowd.come(0..<10, at: 0)
        #expect(crowd.go(at: 0) == 4 && crowd.go(at: 1) == 0)
        crowd.come([10], at: 5)
        #expect(!crowd.isDue(at: 9) && crowd.go(at: 9) == 0)
        #expect(crowd.isDue(at: 10) && crowd.go(at: 10) == 4)
        #expect(crowd.go(at: 40) == 3, "beats that nobody used are lost")
    }

    @Test("whoever comes within a beat that has seen few goes in it")
    func sameBeat() {
        var crowd = PacedCrowd()
        crowd.come([1], at: 0)
        crowd.go(at: 0)
        crowd.come([2], at: 3)
        #expect(crowd.isDue(at: 3) && crowd.go(at: 3) == 1)
    }

    @Test("whoever has nothing to do any more leaves the place to others")
    func givenBack() {
        var settings = Pacer.Settings()
        (settings.fewest, settings.most) = (2, 2)
        var crowd = PacedCrowd(settings)
        crowd.come(0..<6, at: 0)
        let now = Instant(nanoseconds: 7)
        #expect(crowd.pacer.next(now: now) == 0)
        crowd.pacer.giveBack()
        #expect(crowd.pacer.next(now: now) == 1 && crowd.pacer.next(now: now) == 2)
        #expect(crowd.pacer.next(now: now) == nil)
    }

    @Test("thousands that come at once are spread evenly over the patience", arguments: [1_000, 5_000, 15_000])
    func spread(count: Int) throws {
        var crowd = PacedCrowd()
        crowd.come(0..<count, at: 0)
        crowd.goOn(from: 0)
        #expect(crowd.gone.map(\.waiter) == Array(0..<count))
        #expect(try #require(crowd.gone.last).at < 300)
        let most = Dictionary(grouping: crowd.gone, by: \.at).values.map(\.count).max()
        #expect(most == max(32, (count + 29) / 30))
    }

    @Test("with more than it can take the bound holds, and it takes longer")
    func overload() throws {
        var crowd = PacedCrowd()
        crowd.come(0..<100_000, at: 0)
        crowd.goOn(from: 0)
        let beats = Dictionary(grouping: crowd.gone, by: \.at)
        #expect(beats.values.map(\.count).max() == 512 && crowd.gone.count == 100_000)
        #expect(try #require(crowd.gone.last).at == (100_000 + 511) / 512 * 10 - 10)
    }

    @Test("whoever comes at any time has gone within the patience, first come first served")
    func anyTime() {
        var random = SeededRandom(seed: 11)
        var crowd = PacedCrowd()
        var came: [Int] = []
        for time in 0..<300 {
            let arrivals = Int(random.number(in: 0..<40))
            crowd.come(came.count..<came.count + arrivals, at: time)
            came += Array(repeating: time, count: arrivals)
            if crowd.isDue(at: time) { crowd.go(at: time) }
        }
        crowd.goOn(from: 300)
        #expect(crowd.gone.map(\.waiter) == Array(0..<came.count))
        #expect(zip(crowd.gone, came).allSatisfy { $0.at - $1 <= 300 })
    }

    @Test("a host that was late lets go what it owes, up to the bound")
    func late() {
        var crowd = PacedCrowd()
        crowd.come(0..<600, at: 0)
        #expect(crowd.go(at: 5000) == 512 && crowd.go(at: 5010) == 88)
    }

    @Test("a queue that is never empty keeps its order and does not grow")
    func steady() {
        var settings = Pacer.Settings()
        (settings.fewest, settings.most) = (3, 3)
        var crowd = PacedCrowd(settings)
        crowd.come(0..<10, at: 0)
        for beat in 0..<5000 {
            crowd.go(at: beat * 10)
            crowd.come(crowd.gone.suffix(3).map(\.waiter), at: beat * 10 + 1)
        }
        #expect(crowd.pacer.count == 10 && crowd.gone.count == 15_000)
        #expect(crowd.gone.enumerated().allSatisfy { $0.element.waiter == $0.offset % 10 })
    }
}

// MARK: Cores

/// Two nodes that outlive a third, and a replica of every group on each; all that the third led are leaderless. Messages
/// take a tick of five milliseconds, the disk no time.
private struct Survivors {
    private struct Node {
        let id: PeerID
        var liveness: NodeLiveness
        var rafts: [Raft] = []
        var pacer = Pacer()
    }

    private static let dead = c
    private let members = [a, b, c]
    private var nodes: [Node]
    private var inbox: [(node: Int, group: Int, message: Message)] = []
    private var effects = Effects()
    private(set) var now = Instant(nanoseconds: 9_000_000_000)
    /// How many replicas of a node began a campaign in each tick.
    private(set) var campaigns: [Int] = []

    init(groups: Int) {
        var settings = NodeLiveness.Settings()
        settings.startupQuiet = false
        nodes = [a, b].map { [now] id in
            Node(
                id: id,
                liveness: NodeLiveness(node: id.address, runNumber: 1, settings: settings, startedAt: now))
        }
        for node in 0..<2 {
            stepLiveness(.track(members.map(\.address).filter { $0 != nodes[node].id.address }), of: node)
            let request = NodeLiveness.Request(runNumber: 1, sequence: 1, asks: true)
            stepLiveness(.received(request, from: Survivors.dead.address, wallClock: 0), of: node)
            for group in 0..<groups {
                let birth = PlacedConfiguration(index: .zero, configuration: Configuration(peers: members))
                nodes[node].rafts.append(
                    Raft(
                        id: nodes[node].id, hardState: HardState(term: .zero, vote: nil), termRuns: [],
                        lastIndex: .zero,
                        configurations: [birth], applied: .zero, settings: RaftSettings(),
                        seed: UInt64(group * 2 + node)))
                step(.started, node, group)
                let append = AppendRequest(term: Term(1), previous: .zero, commit: .zero)
                step(.received(.appendRequest(append), from: Survivors.dead), node, group)
            }
        }
    }

    /// Whether nothing is to be done at any time until the promises have to be renewed.
    var rests: Bool {
        nodes.allSatisfy { $0.pacer.deadline == nil && $0.rafts.allSatisfy { $0.deadline == nil } }
    }
    var ledGroups: Int { nodes[0].rafts.indices.count { group in nodes.contains { $0.rafts[group].isLeader } } }
    var promisesStand: Bool {
        nodes.contains { $0.liveness.promiseStands(to: Survivors.dead.address, now: now) }
    }

    mutating func tick() {
        now = now + .milliseconds(5)
        for node in 0..<2 { stepLiveness(.deadlineReached, of: node) }
        let arrived = inbox
        inbox = []
        for (node, group, message) in arrived {
            step(.received(message, from: nodes[1 - node].id), node, group)
        }
        for node in 0..<2 {
            for group in nodes[node].rafts.indices {
                let raft = nodes[node].rafts[group]
                if raft.isElectionDue(now: now) {
                    nodes[node].pacer.add(group, now: now)
                } else if let deadline = raft.deadline, deadline <= now {
                    step(.deadlineReached, node, group)
                }
            }
            var began = 0
            while let group = nodes[node].pacer.next(now: now) {
                guard nodes[node].rafts[group].isElectionDue(now: now) else {
                    nodes[node].pacer.giveBack()
                    continue
                }
                step(.deadlineReached, node, group)
                began += 1
            }
            campaigns.append(began)
        }
    }

    private mutating func stepLiveness(_ event: NodeLiveness.Event, of node: Int) {
        var drained = NodeLiveness.Effects()
        nodes[node].liveness.step(event, now: now, into: &drained)
        for changed in drained.changed {
            for group in nodes[node].rafts.indices { step(.livenessChanged(changed), node, group) }
        }
        if drained.checksVitals { stepLiveness(.vitalsConfirmed(startedAt: now), of: node) }
        for (to, request) in drained.requests where to == nodes[1 - node].id.address {
            var answer = NodeLiveness.Effects()
            nodes[1 - node].liveness.step(
                .received(request, from: nodes[node].id.address, wallClock: 0), now: now, into: &answer)
            stepLiveness(.answered(answer.reply!, from: to), of: node)
        }
    }

    private mutating func step(_ event: Event, _ node: Int, _ group: Int) {
        effects.removeAll()
        nodes[node].rafts[group].step(event, now: now, liveness: nodes[node].liveness, into: &effects)
        for outbound in effects.messages + effects.durableMessages where outbound.to == nodes[1 - node].id {
            send(outbound, from: node, group)
        }
        if case .received = event, let reply = effects.reply ?? effects.acknowledgement {
            inbox.append((1 - node, group, reply))
        }
        if effects.hardState != nil || effects.logChange != nil {
            let mark = nodes[node].rafts[group].durableMark
            step(.persisted(mark), node, group)
        }
    }

    private mutating func send(_ outbound: Outbound, from node: Int, _ group: Int) {
        switch outbound.body {
        case .vote(let request): inbox.append((1 - node, group, .voteRequest(request)))
        case .append(let ticket, let previousTerm, let commit):
            // the log holds nothing but what leaders append when they are elected
            let raft = nodes[node].rafts[group]
            let indexes = (0..<ticket.count).map { ticket.previous.advanced(by: $0 + 1) }
            let request = AppendRequest(
                term: ticket.term, previous: LogPosition(term: previousTerm, index: ticket.previous),
                entries: indexes.map { EntryHeader(term: raft.term(at: $0)!, kind: .configuration) },
                configurations: indexes.map {
                    PlacedConfiguration(index: $0, configuration: Configuration(peers: members))
                }, commit: commit)
            inbox.append((1 - node, group, .appendRequest(request)))
        case .timeoutNow, .release, .readIndex, .snapshot:
            Issue.record("nobody hands over, releases, reads or is sent a snapshot: \(outbound)")
        }
    }
}

@Suite("Liveness rule 19: elections after a node's death")
struct PacedElectionTests {
    @Test("thousands of groups are led again within a second, and no beat sees more campaigns than the bound")
    func ledAgain() throws {
        let groups = 3000
        var survivors = Survivors(groups: groups)
        #expect(survivors.rests)
        while survivors.promisesStand { survivors.tick() }
        let lapse = survivors.now
        #expect(survivors.ledGroups == 0 && !survivors.rests)
        while survivors.ledGroups < groups, survivors.now < lapse + .milliseconds(1000) { survivors.tick() }
        #expect(survivors.ledGroups == groups)
        #expect(try #require(survivors.campaigns.max()) <= 512)
    }
}
