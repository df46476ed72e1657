// What each role may do: the one table from which the console decides which buttons it shows.

const ORDER = ['viewer', 'auditor', 'operator', 'owner'];

/** The least role of each action, as the KMS requires it. */
export const ACTIONS = {
  'denial.explain': 'viewer',
  'record.read': 'auditor',
  'policy.check': 'operator',
  'shadow.start': 'operator',
  'shadow.stop': 'operator',
  'freeze.create': 'operator',
  'action.run': 'operator',
  'reload': 'operator',
  'collateral.refresh': 'operator',
  'event.report': 'operator',
  'freeze.lift': 'owner',
  'policy.upload': 'owner',
  'policy.activate': 'owner',
  'approval.decide': 'owner',
  'credential.manage': 'owner',
  'settings.change': 'owner',
  'restart': 'owner',
  'recovery.manage': 'owner',
  'epoch.manage': 'owner',
  'domain.manage': 'owner',
  'replica.invite': 'owner',
  'fleet.repair': 'owner',
  'fleet.forget': 'owner',
  'rollout.manage': 'owner',
};

/** What only a credential of the whole KMS may change. */
const WHOLE = [
  'shadow.start', 'shadow.stop', 'action.run', 'reload', 'collateral.refresh', 'freeze.lift', 'policy.upload', 'policy.activate', 'approval.decide', 'settings.change',
  'restart', 'recovery.manage', 'epoch.manage', 'domain.manage', 'replica.invite', 'fleet.repair', 'fleet.forget', 'rollout.manage',
];

/** Whether this caller may do it. An unknown action is a mistake of ours, and is refused. */
export function can(me, action) {
  const least = ACTIONS[action];
  if (me?.domain && WHOLE.includes(action)) return false;
  return Boolean(me && least) && ORDER.indexOf(me.role) >= ORDER.indexOf(least);
}
