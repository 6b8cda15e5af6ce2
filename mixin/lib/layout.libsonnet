// Panels stand in lines of one height, 24 columns wide.
{
  // width sets a panel's width where its line would not give it the right one.
  width(w):: { gridPos+: { w: w } },

  // line gives panels one height. Those without a width share what is left, the first ones taking the odd columns.
  line(h, list)::
    local given(p) = std.get(std.get(p, 'gridPos', {}), 'w', 0);
    local open = std.length([p for p in list if given(p) == 0]);
    local left = 24 - std.foldl(function(sum, p) sum + given(p), list, 0);
    assert open == 0 || left >= 3 * open : 'a line has no room for ' + std.toString([p.title for p in list]);
    local share(nth) = std.floor(left / open) + (if nth < left % open then 1 else 0);
    [
      local p = list[i];
      local nth = std.length([o for o in list[:i] if given(o) == 0]);
      p { gridPos+: { h: h, w: if given(p) > 0 then given(p) else share(nth) } }
      for i in std.range(0, std.length(list) - 1)
    ],

  // flow gives every panel its place and its id. Panels of a collapsed row go into the row, as Grafana wants it.
  flow(list)::
    local place(s, p) =
      if p.type == 'row' then
        local y = s.y + s.h;
        s { y: y + 1, x: 0, h: 0, out: s.out + [p { gridPos: { x: 0, y: y, w: 24, h: 1 } }] }
      else
        local wraps = s.x + p.gridPos.w > 24;
        local x = if wraps then 0 else s.x;
        local y = if wraps then s.y + s.h else s.y;
        s {
          x: x + p.gridPos.w,
          y: y,
          h: if wraps then p.gridPos.h else std.max(s.h, p.gridPos.h),
          out: s.out + [p { gridPos+: { x: x, y: y } }],
        };
    local placed = std.foldl(place, list, { x: 0, y: 0, h: 0, out: [] }).out;
    local numbered = [placed[i] { id: i + 1 } for i in std.range(0, std.length(placed) - 1)];
    local gather(s, p) =
      local last = std.length(s.out) - 1;
      if p.type == 'row' then { collapsed: p.collapsed, out: s.out + [p] }
      else if s.collapsed then s { out: s.out[:last] + [s.out[last] { panels+: [p] }] }
      else s { out: s.out + [p] };
    std.foldl(gather, numbered, { collapsed: false, out: [] }).out,
}
