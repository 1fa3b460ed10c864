import RaftCore
extension ShardServer {
    func changePeers(of group: String, from: [PeerID], to: [PeerID], _ completion: @escaping (GroupAnswer) -> Void) { fatalError() }
    func orderNewcomer(of group: String, _ peer: PeerID, _ done: @escaping (String?) -> Void) { fatalError() }
}
