import Testing

@testable import RaftCore
@testable import Simulator

@Suite("MIT 6.5840, 3C: persistence")
struct LabPersistenceTests {
    private let pause = LabCluster.electionTime

    @Test("basic persistence", arguments: LabCluster.seeds)
    func persist1(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(11, 3, retry: true)
        lab.restartAll()
        try lab.one(12, 3, retry: true)
        let first = try lab.oneLeader()
        lab.restart(first)
        lab.connect(first)
        try lab.one(13, 3, retry: true)
        let second = try lab.oneLeader()
        lab.disconnect(second)
        let index = try lab.one(14, 2, retry: true)
        lab.restart(second)
        lab.connect(second)
        // the second leader catches up before the next is cut off
        try lab.wait(index, 3)
        let third = lab.next(try lab.oneLeader())
        lab.disconnect(third)
        try lab.one(15, 2, retry: true)
        lab.restart(third)
        lab.connect(third)
        try lab.one(16, 3, retry: true)
        #expect(lab.commands == [11, 12, 13, 14, 15, 16])
    }

    @Test("more persistence", arguments: LabCluster.seeds)
    func persist2(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed)
        var number: UInt64 = 10
        func command() -> UInt64 {
            number += 1
            return number
        }
        for _ in 0..<5 {
            try lab.one(command(), 5, retry: true)
            let leader = try lab.oneLeader()
            let others = (1...4).map { lab.next(leader, $0) }
            lab.disconnect(others[0], others[1])
            try lab.one(command(), 3, retry: true)
            lab.disconnect(leader, others[2], others[3])
            lab.restart(others[0], others[1])
            lab.connect(others[0], others[1])
            lab.sleep(pause)
            lab.restart(others[2])
            lab.connect(others[2])
            // two that lack a command and one that has it
            try lab.one(command(), 3, retry: true)
            lab.connect(others[3], leader)
        }
        try lab.one(1000, 5, retry: true)
    }

    @Test("partitioned leader and one follower crash, leader restarts", arguments: LabCluster.seeds)
    func persist3(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(101, 3, retry: true)
        let leader = try lab.oneLeader()
        let (follower, absent) = (lab.next(leader), lab.next(leader, 2))
        lab.disconnect(absent)
        try lab.one(102, 2, retry: true)
        lab.crash(leader, follower)
        lab.connect(absent)
        lab.restart(leader)
        lab.connect(leader)
        try lab.one(103, 2, retry: true)
        lab.restart(follower)
        lab.connect(follower)
        try lab.one(104, 3, retry: true)
        #expect(lab.commands == [101, 102, 103, 104])
    }

    /// Sleeps mostly a moment, sometimes long enough to elect and to commit.
    private func doze(_ lab: inout LabCluster) {
        lab.sleep(lab.chance(0..<1000) < 100 ? lab.chance(0..<pause / 2) : lab.chance(0..<13))
    }

    /// A command to everybody who would have it; the last who took it, if any.
    private func startEverywhere(_ lab: inout LabCluster, where mayHave: (Int) -> Bool = { _ in true }) -> Int? {
        var leader: Int?
        let command = lab.anyCommand()
        for server in lab.servers where lab.start(command, at: server) != nil && mayHave(server) { leader = server }
        return leader
    }

    @Test("Figure 8", arguments: LabCluster.seeds)
    func figure8(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed)
        try lab.one(lab.anyCommand(), 1, retry: true)
        // leaders crash soon after they took a command, so that entries of old terms linger on few servers
        for _ in 0..<1000 {
            let leader = startEverywhere(&lab)
            doze(&lab)
            if let leader { lab.crash(leader) }
            guard lab.servers.filter(lab.isRunning).count < 3 else { continue }
            let server = Int(lab.chance(0..<5))
            guard !lab.isRunning(server) else { continue }
            lab.restart(server)
            lab.connect(server)
        }
        for server in lab.servers where !lab.isRunning(server) {
            lab.restart(server)
            lab.connect(server)
        }
        try lab.one(lab.anyCommand(), 5, retry: true)
    }

    @Test("unreliable agreement", arguments: LabCluster.seeds)
    func unreliableAgree(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed, isReliable: false)
        for round in 1..<50 {
            // four clients at once, and one more
            let leader = try lab.oneLeader()
            for client in 0..<4 { lab.start(UInt64(100 * round + client), at: leader) }
            try lab.one(UInt64(10_000 + round), 1, retry: true)
        }
        lab.setReliable(true)
        try lab.one(100, 5, retry: true)
        #expect(lab.commands.count >= 50)
    }

    @Test("Figure 8 (unreliable)", arguments: LabCluster.seeds)
    func figure8Unreliable(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed, isReliable: false)
        try lab.one(lab.anyCommand(), 1, retry: true)
        for round in 0..<1000 {
            if round == 200 { lab.setLongReordering(true) }
            let connected = lab.isConnected
            let leader = startEverywhere(&lab) { connected[$0] }
            doze(&lab)
            if let leader, lab.chance(0..<1000) < pause / 2 { lab.disconnect(leader) }
            let server = Int(lab.chance(0..<5))
            if lab.isConnected.filter({ $0 }).count < 3 { lab.connect(server) }
        }
        for server in lab.servers { lab.connect(server) }
        lab.setLongReordering(false)
        try lab.one(lab.anyCommand(), 5, retry: true)
    }

    @Test("churn", arguments: LabCluster.seeds)
    func reliableChurn(seed: UInt64) throws { try churn(seed: seed, isReliable: true) }

    @Test("unreliable churn", arguments: LabCluster.seeds)
    func unreliableChurn(seed: UInt64) throws { try churn(seed: seed, isReliable: false) }

    /// A client that goes on as soon as it has seen its command committed or has waited too long for it.
    private struct Client {
        var waiting: (command: UInt64, index: LogIndex, until: Int64)?
        var idleUntil: Int64 = 0
        var done: [UInt64] = []

        mutating func act(_ lab: inout LabCluster, now: Int64, starts: Bool) {
            if let (command, index, until) = waiting {
                if lab.committed(index) > 0 {
                    if lab.command(at: index) == command { done.append(command) }
                    waiting = nil
                } else if now >= until {
                    waiting = nil
                }
            }
            guard starts, waiting == nil, now >= idleUntil else { return }
            let command = lab.anyCommand()
            for server in lab.servers {
                guard let index = lab.start(command, at: server) else { continue }
                waiting = (command, index, now + 500)
            }
            if waiting == nil { idleUntil = now + 80 }
        }
    }

    /// Servers are cut off, crash and come back while three clients work: what a client saw committed stays so.
    private func churn(seed: UInt64, isReliable: Bool) throws {
        var lab = LabCluster(servers: 5, seed: seed, isReliable: isReliable)
        var clients = [Client(), Client(), Client()]
        var now: Int64 = 0
        func work(_ lab: inout LabCluster, milliseconds: Int64, starts: Bool = true) {
            for _ in 0..<milliseconds / 10 {
                lab.sleep(10)
                now += 10
                for client in clients.indices { clients[client].act(&lab, now: now, starts: starts) }
            }
        }
        for _ in 0..<20 {
            if lab.chance(0..<1000) < 200 { lab.disconnect(Int(lab.chance(0..<5))) }
            if lab.chance(0..<1000) < 500 {
                let server = Int(lab.chance(0..<5))
                if !lab.isRunning(server) { lab.restart(server) }
                lab.connect(server)
            }
            if lab.chance(0..<1000) < 200 { lab.crash(Int(lab.chance(0..<5))) }
            // less than an election takes: not everything settles
            work(&lab, milliseconds: pause * 7 / 10)
        }
        work(&lab, milliseconds: pause)
        lab.setReliable(true)
        for server in lab.servers {
            if !lab.isRunning(server) { lab.restart(server) }
            lab.connect(server)
        }
        work(&lab, milliseconds: 2 * pause, starts: false)
        try lab.one(lab.anyCommand(), 5, retry: true)
        let committed = Set(lab.commands)
        let done = clients.flatMap(\.done)
        #expect(done.allSatisfy(committed.contains), "a committed command is gone")
    }
}
