import RaftCore
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

/// A network that changes a byte of what comes in: of large frames, which are pieces of snapshots.
private final class DamagingNetwork: Network {
    private let network: any Network
    /// Frames that are still to be damaged.
    var remaining: Int

    init(_ network: any Network, frames: Int) {
        self.network = network
        remaining = frames
    }

    func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        network.connect(to: address, handler: Handler(handler, self))
    }

    func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError) {
        try network.listen(on: address, accept: accept)
    }

    private final class Handler: ConnectionHandler {
        private let handler: any ConnectionHandler
        private let network: DamagingNetwork

        init(_ handler: any ConnectionHandler, _ network: DamagingNetwork) {
            self.handler = handler
            self.network = network
        }

        var owesAnswers: Bool { handler.owesAnswers }
        func opened(_ connection: any Connection) { handler.opened(connection) }
        func drained(_ connection: any Connection) { handler.drained(connection) }
        func closed(_ connection: any Connection, reason: String) { handler.closed(connection, reason: reason) }

        func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
            guard network.remaining > 0,
                case .frame(let frame) = Frame.next(in: bytes, at: 0, bodyBytesMax: Frame.bodyBytesMax),
                frame.bytes > 2000
            else { return handler.received(bytes, on: connection) }
            network.remaining -= 1
            var damaged = bytes.array
            // what is attached comes last
            damaged[frame.bytes - 1] ^= 1
            return handler.received(Bytes(damaged), on: connection)
        }
    }
}

@Suite("Pieces of a snapshot whose bytes change on their way")
struct WireDamageTests {
    /// A node that lacks what the others have compacted, and starts on a network that damages so many pieces.
    private func late(
        _ seed: UInt64, damaging frames: Int, _ lines: LockedLines
    ) throws -> (HostCluster, SimulatedNode, DamagingNetwork) {
        var plan = HostCluster.Plan()
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotChunkBytes = 4 << 10
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let late = try #require(cluster.nodes.last { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        let leader = try #require(cluster.leader(of: 0))
        for tag in 1...150 as ClosedRange<UInt64> {
            _ = cluster.propose(Command.payload(tag: tag, byteCount: 100), on: leader)
        }
        var network: DamagingNetwork?
        late.makeNetwork = { lane in
            let damaging = DamagingNetwork(lane, frames: frames)
            network = damaging
            return damaging
        }
        late.settings.logger = Logger(level: .info) { lines.append($0) }
        try late.start()
        return (cluster, late, try #require(network))
    }

    private func isCaughtUp(_ node: SimulatedNode, _ cluster: HostCluster) -> Bool {
        node.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
    }

    @Test("are refused and asked for again, and the snapshot is installed as it was sent") func fetchedAgain() throws {
        let lines = LockedLines()
        let (cluster, late, network) = try late(1, damaging: 3, lines)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(network.remaining == 0)
        // two files of fifty thousand bytes, and one small
        let pieces = 2 * ((50_000 + 4095) / 4096) + 1
        #expect(late.host.receiving.piecesAsked == pieces + 3)
        #expect(lines.count(containing: "snapshot wanted") == 1)
        #expect(lines.count(containing: "snapshot installed") == 1)
        #expect(cluster.allViolations == [])
    }

    @Test("again and again: the snapshot is given up, and offered anew after a pause") func givenUp() throws {
        let lines = LockedLines()
        let (cluster, late, network) = try late(2, damaging: 30, lines)
        #expect(cluster.run(limit: 20_000) { lines.count(containing: "too many pieces came damaged") == 1 })
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(network.remaining == 0 && lines.count(containing: "snapshot installed") == 1)
        #expect(cluster.allViolations == [])
    }
}
