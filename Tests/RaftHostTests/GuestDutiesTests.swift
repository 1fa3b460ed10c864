import RaftCore
import Testing

@testable import RaftHost

@Suite("Guests among many replicas")
struct GuestDutiesTests {
    @Test("Whoever is none has room for a reference only") func size() {
        #expect(MemoryLayout<GuestDuties?>.size == MemoryLayout<Int>.size)
    }

    @Test("They are known without a look at every replica, from their birth to their end, also by the next life")
    func known() throws {
        for kind in ["recording", RaftHost.guestKind] {
            var plan = HostCluster.Plan()
            plan.groups = ["g0", "g1"]
            plan.kind = kind
            let cluster = HostCluster(seed: 3, plan: plan)
            let node = cluster.nodes[0]
            func guests() -> [String] { node.host.guests.map(\.group).sorted() }
            let all = kind == RaftHost.guestKind ? plan.groups : []
            try node.start()
            #expect(cluster.run(limit: 5000) { node.host.replicas.count == 2 })
            #expect(guests() == all)
            node.crash(.everything)
            try node.start()
            #expect(cluster.run(limit: 5000) { node.host.replicas.count == 2 })
            #expect(guests() == all)
            let isOver = Box(false)
            node.lane.post { [host = node.host!, peer = node.peer] in
                host.remove(group: "g0", peer: peer) { _ in isOver.value = true }
            }
            #expect(cluster.run(limit: 5000) { isOver.value })
            #expect(guests() == Array(all.dropFirst()))
        }
    }
}
