// Panels flow from left to right into 24 columns; a row starts a new line.
local panels = import 'panels.libsonnet';
{
  // size says how wide and high a panel is.
  size(w, h=8):: { gridPos+: { w: w, h: h } },

  // flow gives every panel its place and its id. Panels of a collapsed row go into the row, as Grafana wants it.
  flow(list)::
    local placed = std.foldl(
      function(s, p)
        if p.type == 'row' then
          local y = s.y + s.h;
          s { y: y + 1, x: 0, h: 0, out: s.out + [p { gridPos: { x: 0, y: y, w: 24, h: 1 } }] }
        else
          local w = p.gridPos.w;
          local wrap = s.x + w > 24;
          local x = if wrap then 0 else s.x;
          local y = if wrap then s.y + s.h else s.y;
          local h = if wrap then p.gridPos.h else std.max(s.h, p.gridPos.h);
          s { x: x + w, y: y, h: h, out: s.out + [p { gridPos+: { x: x, y: y } }] },
      list,
      { x: 0, y: 0, h: 0, out: [] }
    ).out;
    local numbered = [
      local p = placed[i];
      (if std.objectHas(p, 'fieldConfig') && std.objectHas(p.fieldConfig.defaults, 'thresholds') then panels.finish(p) else p) { id: i + 1 }
      for i in std.range(0, std.length(placed) - 1)
    ];
    // A collapsed row takes in the panels that follow it.
    std.foldl(
      function(s, p)
        if p.type == 'row' then s { row: p.collapsed, out: s.out + [p] }
        else if s.row then s { out: s.out[:std.length(s.out) - 1] + [s.out[std.length(s.out) - 1] { panels+: [p] }] }
        else s { out: s.out + [p] },
      numbered,
      { row: false, out: [] }
    ).out,
}
