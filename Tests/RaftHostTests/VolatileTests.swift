import RaftCore
import RaftStorage
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("State machines that live in memory")
struct VolatileTests {
    @Test("A restart begins with the state saved last, and applies what came after it") func restart() throws {
        let cluster = try VolatileCluster(seed: 1)
        cluster.write(100)
        cluster.awaitAgreement()
        cluster.run(limit: 1000)
        for node in cluster.nodes {
            let saved = node.saved()
            let last = try #require(node.status(of: "g")?.appliedIndex)
            #expect(saved > LogIndex(50), "node \(node.number) has saved up to \(saved)")
            node.crash()
            try node.start()
            #expect(node.saved() == saved)
            cluster.awaitLeaders()
            cluster.awaitAgreement()
            let list = try #require(node.list())
            // what a new leader's term adds comes on top
            let tail = saved.distance(to: last)
            #expect((tail...tail + 3).contains(list.appliedHere), "\(list.appliedHere) applied, \(tail) not saved")
        }
        cluster.write(10)
        cluster.awaitAgreement()
        #expect(cluster.nodes.allSatisfy { $0.volatile.lines.count(containing: "cannot be used") == 0 })
    }

    @Test("Without any state saved, the log tells everything") func nothingSaved() throws {
        let cluster = try VolatileCluster(seed: 2) { $0.saveEntries = 1_000_000 }
        cluster.write(100)
        let node = cluster.nodes[0]
        node.crash()
        try node.start()
        cluster.awaitAgreement()
        #expect(node.saved() == .zero && node.base() == .zero && node.list()?.appliedHere ?? 0 > 100)
    }

    @Test("A replica that answers otherwise than the others is found and fenced, and gets another state")
    func compared() throws {
        let cluster = try VolatileCluster(seed: 21)
        cluster.write(20)
        cluster.awaitAgreement()
        let wrong = try #require(cluster.nodes.last { !$0.leads("g") })
        let former = wrong.host.records.first?.store
        wrong.list()?.isWrongAt = 25
        cluster.write(10)
        #expect(cluster.run(limit: 10_000) { wrong.volatile.lines.count(containing: "differs from") > 0 })
        #expect(cluster.run(limit: 30_000) { wrong.host.records.first?.store != former })
        cluster.write(10)
        cluster.awaitAgreement()
    }

    @Test("The hash of what was applied outlives restarts, and comes with a state") func hashes() throws {
        let cluster = try VolatileCluster(seed: 22)
        func hashes() -> [AppliedHash?] { cluster.nodes.map { $0.volatile.machines["g"]?.latestHash } }
        cluster.write(100)
        cluster.awaitAgreement()
        #expect(hashes()[0] != nil && Set(hashes().map { $0?.value }).count == 1)
        let late = try #require(cluster.nodes.last { !$0.leads("g") })
        late.crash()
        cluster.run(limit: 3000)
        cluster.awaitLeaders()
        cluster.write(150)
        try late.start()
        cluster.awaitAgreement()
        #expect(late.host.records.first.map { $0.store != $0.number } == true)
        for node in cluster.nodes {
            node.crash()
            try node.start()
            cluster.awaitLeaders()
            cluster.awaitAgreement()
        }
        cluster.run(limit: 3000)
        #expect(hashes()[0] != nil && Set(hashes().map { $0?.value }).count == 1)
        #expect(cluster.nodes.allSatisfy { $0.status(of: "g")?.problem == nil })
    }

    @Test("Payload bytes count as well as entries") func bytes() throws {
        let cluster = try VolatileCluster(seed: 3) {
            $0.saveEntries = 1_000_000
            $0.saveBytes = 100_000
        }
        cluster.write(12, bytes: 10_000)
        cluster.run(limit: 1000)
        #expect(cluster.nodes.allSatisfy { $0.saved() >= LogIndex(5) })
    }

    @Test("What is saved is compacted on every node; who was away gets a state, and begins with it from then on")
    func catchUp() throws {
        let cluster = try VolatileCluster(seed: 4)
        let late = try #require(cluster.nodes.last { !$0.leads("g") })
        cluster.write(5)
        late.crash()
        cluster.run(limit: 3000)
        cluster.awaitLeaders()
        cluster.write(150)
        cluster.run(limit: 1000)
        for node in cluster.nodes where node !== late {
            #expect(node.base() > LogIndex(60), "node \(node.number) begins behind \(node.base())")
        }
        try late.start()
        cluster.awaitAgreement()
        let record = try #require(late.host.records.first)
        #expect(record.store != record.number)
        #expect(try #require(late.list()).appliedHere < 60)
        cluster.run(limit: 2000)
        #expect(try late.snapshotDisk.folders() == [])
        // the state that was replaced has gone
        #expect(try late.volatile.disk.list().allSatisfy { $0.hasPrefix("\(record.store)-") })
        late.crash()
        try late.start()
        #expect(late.host.records.first?.store == record.store && late.saved() > LogIndex(60))
        cluster.write(100)
        cluster.awaitAgreement()
        cluster.run(limit: 1000)
        #expect(late.base() > LogIndex(150))
    }

    @Test("A newest state that is damaged is named, and the one before or the leader's takes its place")
    func damaged() throws {
        let cluster = try VolatileCluster(seed: 5)
        cluster.write(150)
        cluster.run(limit: 1000)
        let node = try #require(cluster.nodes.last { !$0.leads("g") })
        let saved = node.saved()
        node.crash()
        let disk = node.volatile.disk
        let files = try disk.list()
        #expect(files.count == 2)
        let newest = try #require(files.first { $0.hasSuffix("-\(saved).state") })
        disk.flipBit(newest, offset: 200)
        try node.start()
        #expect(node.volatile.lines.containing(newest).count == 1)
        cluster.write(10)
        cluster.awaitAgreement()
        // with none left the leader's is all there is
        node.crash()
        for file in try disk.list() { disk.zero(file, from: 0) }
        try node.start()
        #expect(node.saved() == .zero)
        cluster.write(10)
        cluster.awaitAgreement()
        #expect(node.saved() > .zero)
    }

    @Test("A state machine that fails is made anew of what is saved and of the log") func failing() throws {
        let cluster = try VolatileCluster(seed: 6)
        cluster.write(60)
        cluster.run(limit: 1000)
        let node = try #require(cluster.nodes.last { !$0.leads("g") })
        let former = try #require(node.list())
        let saved = node.saved()
        former.failsAt = 70
        cluster.write(30)
        cluster.run(limit: 5000)
        cluster.awaitAgreement()
        let list = try #require(node.list())
        #expect(list !== former && list.tags.contains(70) && saved > .zero)
        #expect(list.tags.count > list.appliedHere, "it was restored")
        #expect(node.volatile.lines.count(containing: "the state machine goes on") == 1)
    }

    @Test("A state that cannot be read for a moment is no reason to go without it") func unreadable() throws {
        let cluster = try VolatileCluster(seed: 11, size: 1) { ($0.keptEntries, $0.keptBytes) = (0, 0) }
        let node = cluster.nodes[0]
        cluster.write(150)
        #expect(cluster.run(limit: 5000) { node.base() == node.saved() && node.base() > LogIndex(100) })
        node.list()?.failsAt = 160
        // the file before does not reach to where the log begins
        node.volatile.disk.failReads(1)
        cluster.write(15)
        cluster.run(limit: 10_000)
        cluster.awaitLeaders()
        cluster.write(5)
        cluster.awaitAgreement()
        #expect(node.volatile.lines.count(containing: "cannot be used") == 1)
        #expect(node.list()?.tags.contains(160) == true)
    }

    @Test("No room to save: nothing is lost, nothing is compacted, and it is tried again until there is room")
    func noRoom() throws {
        let cluster = try VolatileCluster(seed: 7)
        for node in cluster.nodes { node.volatile.disk.isFull = true }
        cluster.write(150)
        cluster.run(limit: 20_000)
        cluster.awaitAgreement()
        for node in cluster.nodes {
            #expect(node.saved() == .zero && node.base() == .zero)
            let complaints = node.volatile.lines.count(containing: "a state cannot be saved")
            // a pause lies between
            #expect((2...8).contains(complaints), "\(complaints) complaints")
            #expect(try node.volatile.disk.list() == [])
        }
        let restarted = cluster.nodes[0]
        restarted.crash()
        try restarted.start()
        cluster.awaitLeaders()
        cluster.write(10)
        cluster.awaitAgreement()
        for node in cluster.nodes { node.volatile.disk.isFull = false }
        #expect(cluster.run(limit: 20_000) { cluster.nodes.allSatisfy { $0.saved() > LogIndex(100) } })
        #expect(cluster.run(limit: 5000) { cluster.nodes.allSatisfy { $0.base() > LogIndex(100) } })
    }

    @Test("Whatever is lost with the power, at any moment, every replica comes back to the same", arguments: 1...8)
    func crashes(seed: UInt64) throws {
        // some are written in one part, some in several
        let isLarge = seed % 4 == 0
        let cluster = try VolatileCluster(seed: 100 + seed, pieceBytes: isLarge ? 30_000 : 300) {
            $0.saveEntries = isLarge ? 10 : 20
            $0.snapshotBytesPerSecond = isLarge ? 4_000_000 : 200_000
            $0.snapshotChunkBytes = isLarge ? 256 << 10 : 8 << 10
        }
        var random = SeededRandom(seed: seed)
        for _ in 0..<8 {
            cluster.write(isLarge ? 5 : 15)
            cluster.run(limit: Int(random.number(in: 0..<200)))
            let node = cluster.nodes[Int(random.number(in: 0..<3))]
            node.crash()
            if random.number(in: 0..<2) == 0 { cluster.write(isLarge ? 12 : 40) }
            try node.start()
            cluster.awaitLeaders()
        }
        cluster.write(5)
        cluster.awaitAgreement()
    }

    // MARK: at what pace

    @Test("A large state is written at the pace of the budget, and applying waits for none of it") func budget() throws
    {
        let cluster = try VolatileCluster(seed: 8, size: 1, pieceBytes: 50_000) {
            $0.snapshotBytesPerSecond = 1_000_000
            $0.saveEntries = 200
        }
        let node = cluster.nodes[0]
        for _ in 0..<200 where node.host.saving.current == nil { cluster.write(1) }
        #expect(node.host.saving.current != nil)
        let begin = cluster.world.now
        let applied = try #require(node.status(of: "g")?.appliedIndex)
        cluster.write(40)
        #expect(node.saved() == .zero, "five megabytes take some seconds")
        #expect(node.status(of: "g")?.appliedIndex == applied.advanced(by: 40))
        #expect(cluster.run(limit: 20_000) { node.saved() > .zero })
        let interval = cluster.world.now - begin
        #expect(interval.milliseconds > 2500 && interval.milliseconds < 12_000, "\(interval)")
        cluster.awaitAgreement()
    }

    @Test("Groups that are equally busy save one after the other, and not all in the same second") func stagger() throws
    {
        let groups = (1...24).map { "g\($0)" }
        let cluster = try VolatileCluster(seed: 9, groups: groups, size: 1) { $0.saveEntries = 100 }
        let node = cluster.nodes[0]
        var savesBySecond: [Int] = []
        for _ in 0..<100 {
            let before = node.volatile.lines.count(containing: "state saved")
            let end = cluster.world.now + .milliseconds(1000)
            for group in groups { cluster.write(1, to: group) }
            cluster.world.run(for: end - cluster.world.now)
            savesBySecond.append(node.volatile.lines.count(containing: "state saved") - before)
        }
        #expect(savesBySecond.reduce(0, +) >= groups.count)
        #expect(savesBySecond.max() ?? 0 <= groups.count / 3, "\(savesBySecond)")
        #expect(node.volatile.lines.containing("state saved").allSatisfy { !$0.contains("index=0") })
    }

    @Test("A log that is under pressure has the states saved that keep it from being compacted") func pressure() throws
    {
        let cluster = try VolatileCluster(seed: 10, groups: ["g", "rare"], size: 1) {
            $0.saveEntries = 1_000_000
            $0.saveBytes = 300_000
            $0.lookBytes = 32 << 10
        }
        let node = cluster.nodes[0]
        node.crash()
        node.settings.log.spaceBytes = 1 << 20
        try node.start()
        cluster.awaitLeaders()
        cluster.write(3, to: "rare")
        cluster.write(100, bytes: 20_000)
        cluster.run(limit: 2000)
        #expect(node.saved("rare") > .zero && node.saved() > LogIndex(20))
        #expect(node.host.logBytes <= 1 << 20)
        cluster.write(3, to: "rare")
        cluster.awaitAgreement()
    }
}

@Suite("When volatile states are saved")
struct SaveScheduleTests {
    private func schedule(_ group: String, _ node: UInt16 = 1, saved: Int64 = 0, entries: Int = 1000) -> SaveSchedule {
        var settings = RaftHost.Settings()
        settings.saveEntries = entries
        settings.saveBytes = 1 << 20
        let peer = PeerID(address: NodeAddress(ip: 1, port: node))
        return SaveSchedule(settings, group: group, peer: peer, saved: LogIndex(saved))
    }

    /// The entry with which it is due.
    private func due(_ schedule: SaveSchedule, from first: Int64 = 1, bytes: Int = 0) -> Int64 {
        var schedule = schedule
        var index = first
        while !schedule.isDue(applied: LogIndex(index), bytes: bytes) { index += 1 }
        return index
    }

    @Test("Between half of the bound and all of it, in entries and in bytes; the same in every run") func bounds() {
        for number in 0..<200 {
            let schedule = schedule("group \(number)")
            #expect((500...1000).contains(due(schedule)))
            #expect((512...1024).contains(due(schedule, bytes: 1 << 10)) || due(schedule) < 1024)
            #expect(due(schedule) == due(self.schedule("group \(number)")))
        }
        #expect(due(schedule("g", entries: 1)) == 1)
    }

    @Test("Groups, the replicas of one, and its saves one after the other all have other moments") func spread() {
        let groups = (0..<1000).map { due(schedule("group \($0)")) }
        for start in stride(from: 500, to: 1000, by: 50) as StrideTo<Int64> {
            #expect((60...140).contains(groups.count { $0 >= start && $0 < start + 50 }))
        }
        #expect(Set((1...3).map { due(schedule("g", $0)) }).count == 3)
        var one = schedule("g")
        var intervals: [Int64] = []
        var last: Int64 = 0
        for _ in 0..<5 {
            let next = due(one, from: last + 1)
            intervals.append(next - last)
            last = next
            one.noteFrozen()
            one.noteSaved(through: LogIndex(last))
        }
        #expect(Set(intervals).count == 5 && intervals.allSatisfy { (500...1000).contains($0) })
    }

    @Test("What is applied while a picture is written counts for the next one") func whileWriting() {
        var schedule = schedule("g")
        let isDue = [
            schedule.isDue(applied: LogIndex(1), bytes: 0), schedule.isDue(applied: LogIndex(2), bytes: 1 << 20),
        ]
        #expect(isDue == [false, true])
        schedule.noteFrozen()
        _ = schedule.isDue(applied: LogIndex(3), bytes: 1 << 20)
        schedule.noteSaved(through: LogIndex(2))
        let isDueAgain = schedule.isDue(applied: LogIndex(3), bytes: 0)
        #expect(isDueAgain)
        schedule.noteFrozen()
        schedule.noteSaved(through: LogIndex(3))
        let isDueStill = schedule.isDue(applied: LogIndex(3), bytes: 0)
        #expect(!isDueStill)
    }
}
