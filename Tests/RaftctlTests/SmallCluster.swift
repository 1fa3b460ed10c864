import RaftCore
import ShardMap

@testable import raftctl

/// Three nodes with g1 and the controller, and what they say of themselves.
struct SmallCluster {
    static let addresses = (1...3).map { NodeAddress(ip: 0x7f00_0001, port: UInt16(8100 + $0)) }
    static let peers = addresses.map { PeerID(address: $0) }
    var isKnown = true
    var nodes: [NodeStatus?]

    init() {
        nodes = SmallCluster.addresses.indices.map { node in
            let replicas = ["controller", "g1"].map { group in
                ReplicaStatus(
                    group: group, peer: SmallCluster.peers[node], state: node == 0 ? "leader" : "follower", term: 3,
                    leader: SmallCluster.peers[0], commitIndex: 50, appliedIndex: 50, lastIndex: 50, durableIndex: 50,
                    peers: SmallCluster.peers)
            }
            return NodeStatus(
                id: UInt64(node + 1), incarnation: 1, runNumber: 1, state: "serving", replicas: replicas)
        }
    }

    mutating func down(_ down: Int...) {
        for node in down { nodes[node] = nil }
        guard nodes.count(where: { $0 != nil }) < 2 else { return }
        for node in nodes.indices {
            for replica in nodes[node]?.replicas.indices ?? 0..<0 { nodes[node]!.replicas[replica].state = "candidate" }
        }
    }

    var state: ClusterState {
        let map = BootstrapRecord(
            clusterID: 9,
            nodes: SmallCluster.addresses.enumerated().map { Node(id: UInt64($0 + 1), address: $1, incarnation: 1) },
            controllerPeers: SmallCluster.peers, groups: 1, replicas: 3, boundaries: []
        ).initialMap
        guard isKnown else {
            return ClusterState(asked: SmallCluster.addresses, answers: nodes, because: "nobody knows it")
        }
        var born = map
        for group in born.groups.indices { born.groups[group].isBorn = true }
        return ClusterState(map: born, answers: nodes)
    }
}
