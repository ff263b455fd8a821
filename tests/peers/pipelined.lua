-- For wrk: sixteen requests at a time on each connection.
init = function()
   burst = string.rep(wrk.format(), 16)
end

request = function() return burst end
