// Allowlists as data: what two of them differ in, and one with the rules of a fragment added.

const plain = (value) => (typeof value === 'string' ? value.toLowerCase().replace(/^0x/, '') : JSON.stringify(value));
const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/** A document as its file has it. */
export const asText = (document) => `${JSON.stringify(document, null, 2)}\n`;

/** Each rule of a document as a line: `{ at, value }`, where `at` is the path of its list or field. */
function rules(document, at = []) {
  return Object.entries(document ?? {}).flatMap(([name, value]) => {
    const here = [...at, name];
    if (Array.isArray(value)) return value.map((entry) => ({ at: here, value: entry }));
    if (isObject(value)) {
      const inner = rules(value, here);
      return inner.length > 0 ? inner : [{ at: here, value: null }];
    }
    return [{ at: here, value }];
  });
}

const key = ({ at, value }) => `${at.map(plain).join('\n')}\n\n${plain(value)}`;

/** The rules that `after` adds to `before`, and those that it lacks. Hexadecimal values are compared whatever their form. */
export function difference(before, after) {
  const [old, now] = [rules(before), rules(after)];
  const [had, has] = [new Set(old.map(key)), new Set(now.map(key))];
  return { added: now.filter((rule) => !had.has(key(rule))), removed: old.filter((rule) => !has.has(key(rule))) };
}

/** A copy of `document` with the rules of `fragment`: lists get what they lack, objects are merged, other values replaced. */
export function merged(document, fragment) {
  if (Array.isArray(fragment)) {
    const list = Array.isArray(document) ? [...document] : [];
    for (const entry of fragment) if (!list.some((listed) => plain(listed) === plain(entry))) list.push(entry);
    return list;
  }
  if (!isObject(fragment)) return fragment;
  const whole = isObject(document) ? { ...document } : {};
  for (const [name, value] of Object.entries(fragment)) {
    const known = Object.keys(whole).find((listed) => plain(listed) === plain(name)) ?? name;
    whole[known] = merged(whole[known], value);
  }
  return whole;
}
