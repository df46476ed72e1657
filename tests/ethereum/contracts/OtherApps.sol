// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AppBootInfo, IAppAuth, equal} from "BootInfo.sol";

/// Allows one instance while it has no advisory but one, and says why not in words of its own.
contract OwnRulesApp is IAppAuth {
    function isAppAllowed(AppBootInfo calldata info) external pure returns (bool, string memory) {
        if (info.instanceId == address(0)) return (false, unicode"instances only, please — désolé");
        if (info.advisoryIds.length != 2 || !equal(info.advisoryIds[1], "INTEL-SA-2")) return (false, "advisories differ");
        return (true, "welcome");
    }
}

/// Fails in its own words.
contract RevertingApp is IAppAuth {
    function isAppAllowed(AppBootInfo calldata) external pure returns (bool, string memory) {
        revert("closed for repairs");
    }
}

/// Never ends by itself.
contract BurningApp is IAppAuth {
    function isAppAllowed(AppBootInfo calldata) external pure returns (bool, string memory) {
        uint256 spent;
        while (true) {
            spent = uint256(keccak256(abi.encode(spent)));
        }
        return (true, "");
    }
}

/// Allows, with a reason of so many letters.
contract WordyApp is IAppAuth {
    uint256 private immutable letters;

    constructor(uint256 count) {
        letters = count;
    }

    function isAppAllowed(AppBootInfo calldata) external view returns (bool, string memory) {
        bytes memory reason = new bytes(letters);
        for (uint256 index = 0; index < letters; index++) reason[index] = "x";
        return (true, string(reason));
    }
}

/// Says something that is no text.
contract UnreadableApp is IAppAuth {
    function isAppAllowed(AppBootInfo calldata) external pure returns (bool, string memory) {
        bytes memory reason = hex"c328ff";
        return (true, string(reason));
    }
}

/// Returns the same bytes to every call.
contract Parrot {
    bytes private answer;

    function teach(bytes calldata value) external {
        answer = value;
    }

    fallback(bytes calldata) external returns (bytes memory) {
        return answer;
    }
}

/// A DstackKms that answers decisions with the bytes it was taught.
contract ParrotKms is Parrot {
    string public gatewayAppId = "gateway";
    address public appImplementation = address(1);
}
